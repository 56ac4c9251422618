"""The rules of a store once more, written down without looking at how the stores follow them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

LEASE_MS = 10_000


@dataclass
class ModelStep:
    out: Any = None
    seq: int = 0
    attempts: int = 0
    strikes: int = 0
    begun: int = 0
    due: int = 0


@dataclass
class ModelRun:
    """A run with every number that an answer may hold."""

    status: str = "running"
    out: Any = None
    attempts: int = 0
    strikes: int = 0
    due: int = 0
    seq: int = 0
    tokens: int = 0
    holder: int = 0
    owner: str = ""
    message: tuple[str, int] = ("", 0)
    until: int = 0
    alive: int = 0
    epoch: int = 0
    steps: dict[tuple[str, ...], ModelStep] = field(default_factory=dict)

    @property
    def is_open(self) -> bool:
        return self.status in ("running", "waiting")

    def holds(self, token: int) -> bool:
        return token > 0 and self.holder == token

    def claim(self, owner: str, message: str, retried: int, now: int) -> tuple[Any, ...]:
        if not self.is_open:
            return "finished", self.status, self.out
        if not (self.holder and self.owner == owner):
            if self.holder and now < self.until:
                is_same = message == self.message[0] and retried >= self.message[1]
                if not (is_same and now > self.alive + 1500):
                    return "busy", self.holder, self.until - now
            if now < self.due:
                self.holder = 0
                return "waiting", self.attempts, self.due - now
            self.tokens += 1
            self.holder, self.owner, self.message = self.tokens, owner, (message, retried)
            self.until, self.alive = now + LEASE_MS, now
            self.strikes += 1
            self.status = "running"
        done = sorted((step.seq, path, step.out) for path, step in self.steps.items() if step.out)
        unfinished = {path: (step.attempts, step.due) for path, step in self.steps.items() if not step.out}
        return "started", self.holder, self.attempts, self.strikes, done, unfinished

    def step(self, path: tuple[str, ...]) -> ModelStep:
        return self.steps.setdefault(path, ModelStep())

    def _progress(self, token: int, now: int) -> None:
        self.strikes = 1 if self.holder else 0
        if self.holds(token):
            self.alive = now

    def _is_refused(self, token: int, is_ok: bool, now: int) -> bool:
        is_overtaken = self.epoch > 0 and self.holder != token
        return not is_ok and (is_overtaken or (self.holder not in (0, token) and now < self.until))

    def commit_step(self, token: int, path: tuple[str, ...], out: Any, is_ok: bool, now: int) -> tuple[Any, ...]:
        known = self.steps.get(path)
        if not self.is_open or (known is not None and known.out):
            return "lost", known.out if known else None, self.holds(token)
        if self._is_refused(token, is_ok, now):
            return ("stale",)
        self.seq += 1
        step = self.step(path)
        step.out, step.seq, step.strikes, step.due = out, self.seq, 0, 0
        self._progress(token, now)
        return "won", self.holds(token)

    def commit_body(self, token: int, out: Any, is_ok: bool, now: int) -> tuple[Any, ...]:
        if not self.is_open:
            return "lost", self.out, False
        if self._is_refused(token, is_ok, now):
            return ("stale",)
        self.out, self.status, self.holder, self.strikes = out, "completed" if is_ok else "failed", 0, 0
        return "won", False

    def begin(self, token: int, path: tuple[str, ...], at_most_once: bool) -> tuple[Any, ...]:
        if self.status != "running" or not self.holds(token):
            return ("gone",)
        step = self.step(path)
        if step.out:
            return "done", step.out
        if step.begun == token:
            return "go", step.attempts
        if step.strikes >= 3 or (at_most_once and step.begun):
            return "exhausted", step.strikes
        step.strikes, step.begun, self.strikes = step.strikes + 1, token, 1
        for length in range(1, len(path)):
            if path[:length] in self.steps:
                self.steps[path[:length]].strikes = 0
        return "go", step.attempts

    def fail(self, token: int, path: tuple[str, ...], attempts: int, due: int, now: int) -> tuple[Any, ...]:
        if self.status != "running" or not self.holds(token):
            return ("gone",)
        step = self.step(path)
        if step.out:
            return "done", step.out
        step.attempts, step.due, step.strikes, step.begun = max(step.attempts, attempts), due, 0, 0
        self._progress(token, now)
        return "go", step.attempts

    def release(self, token: int, kind: str, due: int) -> int | None:
        if not self.is_open or not self.holds(token):
            return None
        self.holder = 0
        if kind == "shutdown":
            self.strikes = max(0, self.strikes - 1)
            return self.attempts
        self.strikes, self.status = 0, "waiting"
        if kind == "failed":
            self.attempts, self.due = self.attempts + 1, due
        return self.attempts

    def renew(self, token: int, now: int) -> bool:
        if self.status != "running" or not self.holds(token):
            return False
        self.until, self.alive = now + LEASE_MS, now
        return True

    def cancel(self) -> str:
        if self.is_open:
            self.status, self.holder = "cancelled", 0
        return self.status

    def reopen(self) -> int | None:
        if self.status not in ("failed", "cancelled"):
            return None
        self.status, self.out, self.epoch = "waiting", None, self.epoch + 1
        self.attempts = self.strikes = self.due = self.holder = 0
        for path, step in self.steps.items():
            if not (step.out and step.out[0]):
                is_timer = not step.out and not step.attempts
                self.steps[path] = ModelStep(due=step.due if is_timer else 0)
        return self.epoch
