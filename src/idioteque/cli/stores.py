"""Which runs a command is about: those of a store that a URL names, or of a worker in somebody's code."""

from __future__ import annotations

import importlib
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from idioteque.cli.describing import checked_name
from idioteque.client import usable
from idioteque.database import sqlite_path
from idioteque.dispatcher import Dispatcher
from idioteque.dispatchers import QStashDispatcher
from idioteque.dispatchers.unmounted import Unmounted
from idioteque.environment import account_from
from idioteque.errors import ConfigurationError, InvalidValue, first_line
from idioteque.runs import Runs
from idioteque.worker import Worker

NO_MOUNT = (
    "a message has to be sent to the mount: give its URL with --mount-url, or the worker with --app, and try again"
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where runs are kept and how their messages are sent, as the options of a command say it; None: not given."""

    store: str | None
    app: str | None
    mount_url: str | None = None

    def check_can_send(self) -> None:
        """Raise `ConfigurationError` when a message could not be sent, before anything was changed."""
        if self.app is None:
            if self.mount_url is None:
                raise ConfigurationError(NO_MOUNT)
            usable(account_from(os.environ))

    def worker(self) -> Worker:
        """Return the worker that `app` names, or one without functions over the store."""
        if self.app is not None:
            if self.store is not None or self.mount_url is not None:
                raise InvalidValue("--app knows its store and its mount; give it alone")
            return imported_worker(self.app)
        dispatcher: Dispatcher = Unmounted(NO_MOUNT)
        if self.mount_url is not None:
            dispatcher = QStashDispatcher(mount_url=self.mount_url)
        return Worker(events_schema=dict[str, Any], store=self._store_url(), dispatcher=dispatcher)

    def _store_url(self) -> str:
        url = self.store or os.environ.get("IDIOTEQUE_STORE", "").strip()
        if not url:
            raise ConfigurationError("which store? Give --store URL, set IDIOTEQUE_STORE, or name a worker with --app")
        if url.startswith("memory:"):
            raise ConfigurationError("runs in memory are seen by nobody but the process that keeps them")
        if url.startswith("sqlite:") and not Path(sqlite_path(url)).is_file():
            raise ConfigurationError(
                f"there is no file {sqlite_path(url)!r}; a command looks at runs and makes no store"
            )
        return url


@asynccontextmanager
async def opened(place: Place) -> AsyncGenerator[Runs, None]:
    """Yield the runs of a place and let go of its store afterwards."""
    worker = place.worker()
    try:
        yield worker.runs
    finally:
        await worker.close()


def imported_worker(name: str) -> Worker:
    """Return the worker `module:attribute` from the current directory or whatever is installed."""
    module, _, attribute = checked_name(name, "WORKER").partition(":")
    try:
        worker: object = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:  # whatever the module raises is somebody's code
        raise ConfigurationError(f"{name!r} cannot be loaded: {first_line(error)}") from error
    if not isinstance(worker, Worker):
        raise InvalidValue(f"{name!r} is a {type(worker).__name__}, not a Worker")
    return worker
