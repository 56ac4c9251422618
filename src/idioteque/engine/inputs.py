"""What handlers are given: events of the schema, ticks, failures of other runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from idioteque.errors import EventRejected, IdiotequeError
from idioteque.events import EventsSchema
from idioteque.function import FAILURE_SUFFIX, Function, RunFailure
from idioteque.ticks import read_tick


class Inputs:
    """Reads the stored events of runs."""

    def __init__(self, schema: EventsSchema, functions: Mapping[str, Function]) -> None:
        self._schema = schema
        self._failing = {f"{each.id}{FAILURE_SUFFIX}": each for each in functions.values() if each.on_failure}

    def of(self, function: Function, stored: bytes) -> Any:
        """Return what the handler is given; a stored event that does not fit any more may fit the next deployment."""
        try:
            failed = self._failing.get(function.id)
            if failed is None:
                return self._decoded(function, stored)
            document: dict[str, Any] = json.loads(stored)
            event = self._decoded(failed, json.dumps(document["event"]).encode())
            return RunFailure(**{**document, "event": event})
        except EventRejected as error:
            raise IdiotequeError(f"the stored event of this run does not fit any more: {error}") from error

    def _decoded(self, function: Function, stored: bytes) -> Any:
        return self._schema.decode(stored) if function.cron is None else read_tick(stored)
