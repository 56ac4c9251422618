"""Every error of the library and of the ground both halves stand on.

IdiotequeError
├── ConfigurationError          something is missing or contradicts itself; fix it before anything runs
│   └── MissingExtra            an optional dependency is not installed; the message names the extra
├── InvalidValue                a caller's value breaks a rule (durations, ids, keys); also a ValueError
├── EventRejected               an event does not fit the schema
├── SignatureError              a delivery's signature does not verify
├── DispatchError               the transport did not accept a message (status, body)
│   └── BatchDispatchError      some of several messages were refused (failed indexes, accepted ids)
├── TransportError              an HTTP exchange brought no complete response; itself: the request can never be sent
│   ├── ConnectFailed           no connection was made: refused, unreachable, name unknown, TLS
│   ├── ConnectionCut           the connection broke before the response was complete
│   ├── ExchangeTimeout         the deadline passed
│   └── AddressDenied           the destination may not be reached (policy)
├── DatabaseError               the database did not do what was asked
│   ├── DatabaseFull            no room on the disk; reads and later writes may work
│   ├── DatabaseTooSlow         a read took longer than one may, and was stopped
│   ├── CommitUnknown           the connection broke during a commit, which may have been done or not
│   └── DatabaseBroken          an I/O or corruption error: stop using this database in this process
├── StepFailed                  a step ended in a recorded failure; raised at its await, on every replay alike
│   ├── StepInterrupted         an at_most_once step whose end was never recorded
│   └── ResultNotSerializable   a step's result has no faithful JSON form
├── DuplicateStepKey            one key was used twice in one scope
├── NonRetryableError           raised by users: do not try again
├── RetryAfter                  raised by users: try again after so many seconds
├── RunFailed                   the run whose result was asked for has failed
├── RunCancelled                the run whose result was asked for was cancelled
└── RunUnknown                  no such run is stored

BaseException
└── PassOver                    ends code whose delivery goes no further; no failure, so let it pass
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class IdiotequeError(Exception):
    """The root of every error that this package raises on purpose."""


class ConfigurationError(IdiotequeError):
    """Something is missing or contradicts itself; the message says what to set."""


class MissingExtra(ConfigurationError):
    """An optional dependency is needed and not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs an optional dependency: pip install 'idioteque[{extra}]'")
        self.extra = extra


class InvalidValue(IdiotequeError, ValueError):
    """A value given by the caller breaks a rule; the message names both."""


class EventRejected(IdiotequeError, ValueError):
    """An event does not fit the worker's events schema."""


class SignatureError(IdiotequeError):
    """A delivery's signature does not verify; nothing was run."""


class DispatchError(IdiotequeError):
    """The transport did not accept a message.

    `status` is the HTTP status, or None when no answer came: then the message may or may not have been accepted, and
    sending it again under the same deduplication id is safe.
    """

    def __init__(self, message: str, status: int | None = None, body: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.body = body


class BatchDispatchError(DispatchError):
    """Some messages of a batch were refused.

    `failed` maps the index of each refused message to its reason, `accepted` the index of each other to its message id.
    """

    def __init__(self, message: str, failed: Mapping[int, str], accepted: Mapping[int, str]) -> None:
        super().__init__(message, status=200)
        self.failed = dict(failed)
        self.accepted = dict(accepted)


class TransportError(IdiotequeError):
    """An HTTP exchange brought no complete response.

    Raised as itself for a request that can never be sent, its URL or a header being against the rules of HTTP.
    """


class ConnectFailed(TransportError):
    """No connection was made: refused, unreachable, unknown name, or a failed TLS handshake. Nothing was sent."""


class ConnectionCut(TransportError):
    """The connection broke before the response was complete; the other side may have acted."""


class ExchangeTimeout(TransportError):
    """The deadline of the exchange passed; the other side may have acted."""


class AddressDenied(TransportError):
    """The destination's address may not be reached; nothing was sent."""


class DatabaseError(IdiotequeError):
    """The database did not do what was asked; nothing of the operation was stored."""


class DatabaseFull(DatabaseError):
    """There is no room left on the disk; nothing of the operation was stored."""


class DatabaseTooSlow(DatabaseError):
    """A read took longer than one may, and was stopped; ask for less."""


class CommitUnknown(DatabaseError):
    """The connection broke before the answer to a commit came: the operation may or may not be stored. Ask again."""


class DatabaseBroken(DatabaseError):
    """The disk or the database file failed. Whether the last operations were stored is unknown: restart to recover."""


class StepFailed(IdiotequeError):
    """A step ended in a recorded failure.

    `key` is the step's path joined by `/`, `type` the class name of the original error and `message` its text. The same
    error is raised at the same await on every replay; catching it is ordinary control flow.
    """

    def __init__(self, key: str, type: str, message: str, traceback: str = "") -> None:  # noqa: A002
        super().__init__(f"step {key!r} failed: {type}: {message}" if message else f"step {key!r} failed: {type}")
        self.key = key
        self.type = type
        self.message = message
        self.traceback = traceback


class StepInterrupted(StepFailed):
    """An `at_most_once` step was started and its end never recorded; it may or may not have had its effect."""


class ResultNotSerializable(StepFailed):
    """A step returned something that has no faithful JSON form; its effect did happen."""


class DuplicateStepKey(IdiotequeError):
    """One key was used twice in one scope, so two steps would share one outcome. The run fails without a retry."""

    def __init__(self, function_id: str, key: str) -> None:
        super().__init__(
            f"function {function_id!r} used the step key {key!r} twice in one scope; "
            f'give each step a key of its own, e.g. f"{key}-{{item.id}}"'
        )
        self.function_id = function_id
        self.key = key


class NonRetryableError(IdiotequeError):
    """Raise this in a step or a function to fail at once, whatever its `Retry` says."""


class RetryAfter(IdiotequeError):
    """Raise this in a step or a function to be tried again after so many seconds; counts as a failed attempt."""

    def __init__(self, seconds: float, message: str = "") -> None:
        super().__init__(message or f"try again after {seconds:g} s")
        self.seconds = float(seconds)


class RunFailed(IdiotequeError):
    """The run failed for good; `run_id`, and the recorded error's `type` and `message`."""

    def __init__(self, run_id: str, type: str, message: str) -> None:  # noqa: A002
        super().__init__(f"run {run_id} failed: {type}: {message}")
        self.run_id = run_id
        self.type = type
        self.message = message


class RunCancelled(IdiotequeError):
    """The run was cancelled."""

    def __init__(self, run_id: str) -> None:
        super().__init__(f"run {run_id} was cancelled")
        self.run_id = run_id


class RunUnknown(IdiotequeError):
    """No such run is stored: a wrong id, or one whose retention is over."""

    def __init__(self, run_id: str) -> None:
        super().__init__(f"no run {run_id!r} is stored")
        self.run_id = run_id


class PassOver(BaseException):
    """Raised by a context's operations in code that has to end, since its delivery goes no further.

    A plain function's thread is let go with it, and code that still runs after its pass meets it, such as a `finally`
    block. It is no `Exception`, so that nobody's `except` takes it for a failure; catch it only to raise it again.
    """


def counted(count: int, noun: str) -> str:
    """Return a number of things in words: `1 run`, `2,000 runs`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def first_line(error: BaseException, length_max: int = 500) -> str:
    """Describe an error in one bounded line, fit for a log or a header."""
    text = " ".join(text_of(error).split())
    text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text if len(text) <= length_max else text[: length_max - 1] + "…"


def text_of(error: BaseException) -> str:
    """Return what an error says, as text that every database and encoding can hold."""
    try:
        text = str(error)
    except Exception:  # a __str__ that fails
        return "(an error that cannot say what it is)"
    return storable(text)


def storable(text: str) -> str:
    """Return a text that every database and encoding can hold."""
    return text.encode(errors="backslashreplace").decode().replace("\x00", "\\x00")


def joined(names: Sequence[str]) -> str:
    """Join names for a message: `a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else list(names))
