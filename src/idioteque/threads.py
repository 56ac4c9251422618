"""Threads for plain callables: so many are at work at once, and the others wait for their turn."""

from __future__ import annotations

import functools
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from idioteque.errors import ConfigurationError

STEP_THREADS = 64
"""Plain steps at work at once in a process, unless `IDIOTEQUE_STEP_THREADS` says otherwise."""
HANDLER_THREADS = 256
"""Plain functions at work at once in a process, unless `IDIOTEQUE_HANDLER_THREADS` says otherwise."""
THREADS_MAX = 10_000
"""No setting is larger, and no more threads are kept for steps, including those that wait for steps of their own."""

P = ParamSpec("P")
T = TypeVar("T")

_log = logging.getLogger("idioteque")


class Threads(Executor):
    """Runs calls in threads, `count_max` at once, in the order in which they came.

    A thread that waits for what others do in such threads gives its place up first: if it did not, enough of them
    would wait for ever.
    """

    def __init__(self, start: Callable[[Callable[[], None]], object], count_max: int, name: str) -> None:
        self.count_max = count_max
        self._start = start
        self._name = name
        self._lock = threading.Lock()
        self._working = 0
        self._is_full = False
        self._waiting: deque[Callable[[], None]] = deque()
        self._here = threading.local()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have a call run as soon as there is a place, unless it is cancelled before."""
        future: Future[T] = Future()

        def call() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:  # raised where the result is awaited
                future.set_exception(error)
            else:
                future.set_result(result)

        self._begin(call)
        return future

    def _begin(self, call: Callable[[], None]) -> None:
        with self._lock:
            is_full = self._working >= self.count_max
            is_news = is_full and not self._is_full
            self._is_full = is_full
            if is_full:
                self._waiting.append(call)
            else:
                self._working += 1
        if is_news:
            _log.warning("all %d threads for %s are at work: the next ones wait", self.count_max, self._name)
        if not is_full:
            self._work_elsewhere(call)

    def step_aside(self) -> None:
        """Give the place of this thread to another call for good; nothing happens in a thread that has none."""
        if getattr(self._here, "has_place", False):
            self._here.has_place = False
            call = self._next()
            if call is not None:
                self._work_elsewhere(call)

    def _work_elsewhere(self, call: Callable[[], None]) -> None:
        try:
            self._start(functools.partial(self._work, call))
        except BaseException:  # there is no thread to be had
            with self._lock:
                self._working -= 1
            raise

    def _work(self, call: Callable[[], None]) -> None:
        following: Callable[[], None] | None = call
        while following is not None:
            self._here.has_place = True
            following()
            following = self._next() if self._here.has_place else None
        self._here.has_place = False

    def _next(self) -> Callable[[], None] | None:
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            self._working -= 1
            return None


def step_threads() -> Threads:
    """Return this process's threads for plain steps."""
    return _step_threads(os.getpid())


def handler_threads() -> Threads:
    """Return this process's threads for plain functions: each is a new one, and ends with its call."""
    return _handler_threads(os.getpid())


@functools.lru_cache(maxsize=1)
def _step_threads(_process_id: int) -> Threads:
    kept = ThreadPoolExecutor(THREADS_MAX, thread_name_prefix="idioteque-step")
    return Threads(kept.submit, count_from(os.environ, "IDIOTEQUE_STEP_THREADS", STEP_THREADS), "plain steps")


@functools.lru_cache(maxsize=1)
def _handler_threads(_process_id: int) -> Threads:
    count_max = count_from(os.environ, "IDIOTEQUE_HANDLER_THREADS", HANDLER_THREADS)
    return Threads(_in_new_thread, count_max, "plain functions")


def _in_new_thread(work: Callable[[], None]) -> None:
    threading.Thread(target=work, name="idioteque-function", daemon=True).start()


def count_from(environment: Mapping[str, str], name: str, default: int) -> int:
    """Read how many threads there are to be; raise `ConfigurationError` unless it is from 1 to `THREADS_MAX`."""
    text = environment.get(name, "").strip() or str(default)
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= THREADS_MAX):
        raise ConfigurationError(f"{name} must be a whole number from 1 to {THREADS_MAX}, not {text!r}")
    return int(text)
