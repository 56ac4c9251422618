"""The rows of the compatibility table: every method of both SDKs, every header, and the test that shows it works.

A test claims rows with `covers`; that it really calls the methods that it claims is checked when it ends. The table is
written by `python -m tests.compat.rows`.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from qstash import AsyncQStash, QStash

HERE = Path(__file__).parent
CASES = HERE / "javascript" / "cases.mjs"
TABLE = HERE.parents[1] / "docs" / "compatibility.md"

T = TypeVar("T")

NOT_OFFERED: Mapping[str, str] = {
    "javascript chat.create": "answered 404: no language model is proxied; publish to the provider's URL",
    "javascript chat.prompt": "answered 404, like `chat.create`",
    "javascript workflow.cancel": "not yet: the workflow protocol",
}

PUBLISH_HEADERS = (
    "Authorization", "Content-Type", "Upstash-Method", "Upstash-Forward-*", "Upstash-Header-Forward", "Upstash-Delay",
    "Upstash-Not-Before", "Upstash-Retries", "Upstash-Retry-Delay", "Upstash-Timeout", "Upstash-Callback",
    "Upstash-Callback-*", "Upstash-Failure-Callback", "Upstash-Failure-Callback-*", "Upstash-Deduplication-Id",
    "Upstash-Content-Based-Deduplication", "Upstash-Flow-Control-Key", "Upstash-Flow-Control-Value", "Upstash-Label",
    "Upstash-Redact-Fields", "Upstash-Queue-Name", "Upstash-Cron", "Upstash-Schedule-Id", "Upstash-Telemetry-*",
)  # fmt: skip

DELIVERY_HEADERS = (
    "User-Agent", "Content-Type", "forwarded headers", "Upstash-Signature", "Upstash-Message-Id", "Upstash-Retried",
    "Upstash-Topic-Name", "Upstash-Schedule-Id", "Upstash-Caller-Ip", "Accept-Encoding", "Content-Length", "Host",
)  # fmt: skip

ANSWER_HEADERS = (
    "Upstash-NonRetryable-Error", "Retry-After", "X-RateLimit-Reset", "X-RateLimit-Reset-Requests",
    "X-RateLimit-Reset-Tokens",
)  # fmt: skip

REFUSAL_HEADERS = (
    "RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset",
    "Burst-RateLimit-Limit", "Burst-RateLimit-Remaining", "Burst-RateLimit-Reset",
)  # fmt: skip


def covers(*rows: str) -> Callable[[T], T]:
    """Claim rows for a test: `message.publish`, `publish Upstash-Delay`, …"""

    def marked(function: T) -> T:
        function.covers = rows  # type: ignore[attr-defined]
        return function

    return marked


class Driven:
    """A Python client, synchronous or not, whose calls are awaited and noted."""

    def __init__(self, sdk: object, called: set[str], path: str = "") -> None:
        self._sdk = sdk
        self._called = called
        self._path = path

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._sdk, name)
        path = f"{self._path}{name}"
        if not callable(value):
            return Driven(value, self._called, f"{path}.")

        async def call(*args: object, **options: object) -> object:
            self._called.add(path)
            if inspect.iscoroutinefunction(value):
                return await value(*args, **options)
            return await asyncio.to_thread(value, *args, **options)

        return call


def python_methods(client: type[QStash] | type[AsyncQStash]) -> list[str]:
    """Return every public method of a client, as `message.publish`."""
    sdk = client("token")
    apis = {name: api for name, api in vars(sdk).items() if name != "http" and not name.startswith("_")}
    return [
        f"{name}.{method}" for name, api in apis.items() for method, _ in inspect.getmembers(api, inspect.ismethod)
        if not method.startswith("_")
    ]  # fmt: skip


def javascript_methods() -> list[str]:
    """Return every public method of the JavaScript client, from its declarations."""
    package = HERE / "javascript" / "node_modules" / "@upstash" / "qstash"
    text = next(package.glob("client-*.d.ts")).read_text()
    getters = {"messages": "Messages", "dlq": "DLQ", "schedules": "Schedules", "urlGroups": "UrlGroups",
               "flowControl": "FlowControlApi", "queue": "Queue", "chat": "Chat", "workflow": "Workflow"}  # fmt: skip
    methods = [f"client.{name}" for name in _declared(text, "Client") if name not in getters]
    methods += [f"{getter}.{name}" for getter, of in getters.items() for name in _declared(text, of)]
    return [*methods, "Receiver.verify"]


def _declared(text: str, name: str) -> Iterator[str]:
    body = text[text.index(f"declare class {name} {{") :]
    for line in body[: body.index("\n}\n")].splitlines():
        match = re.match(r" {4}(?!private|constructor|get |readonly)(\w+)(?:: )?[<(]", line)
        if match:
            yield match[1]


def claims() -> dict[str, list[str]]:
    """Return which tests claim each row, read from the sources of the suite."""
    found: dict[str, list[str]] = {}
    for source in sorted(HERE.glob("test_*.py")):
        for node in ast.parse(source.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                for row in _claimed(node):
                    found.setdefault(row, []).append(node.name)
    for name, rows in javascript_claims().items():
        for row in rows:
            found.setdefault(f"javascript {row}", []).append(name)
    return found


def javascript_claims() -> dict[str, list[str]]:
    """Return the cases of the JavaScript suite, and what each says it covers."""
    return {
        name: json.loads(rows)
        for name, rows in re.findall(r"^(\w+)\.covers = (\[[^;]*\]);", CASES.read_text(), re.MULTILINE)
    }


def _claimed(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    for decorator in function.decorator_list:
        if isinstance(decorator, ast.Call) and isinstance(decorator.func, ast.Name) and decorator.func.id == "covers":
            yield from (str(argument.value) for argument in decorator.args if isinstance(argument, ast.Constant))


def table() -> str:
    """Return the text of `docs/compatibility.md`."""
    found = claims()

    def row(shown: str, *keys: str) -> str:
        tests = list(dict.fromkeys(test for key in keys for test in found.get(key, ())))
        verdict = "works" if tests else NOT_OFFERED.get(keys[0], "")
        return f"| `{shown}` | {verdict} | {', '.join(f'`{test}`' for test in tests) or '-'} |"

    def part(title: str, rows: list[str]) -> str:
        return "\n".join([f"## {title}", "", "| | verdict | shown by |", "|---|---|---|", *rows, ""])

    parts = [
        INTRODUCTION,
        part("Python SDK, `QStash` and `AsyncQStash`", [
            *(row(name, name) for name in python_methods(QStash)), row("Receiver.verify", "Receiver.verify")
        ]),
        part("JavaScript SDK", [row(name, f"javascript {name}") for name in javascript_methods()]),
        part("Headers of a publish", [row(name, f"publish {name}") for name in PUBLISH_HEADERS]),
        part("Headers of a delivery", [row(name, f"delivery {name}") for name in DELIVERY_HEADERS]),
        part("Headers of a destination's answer", [row(name, f"answer {name}") for name in ANSWER_HEADERS]),
        part("Headers of a refusal", [row(name, f"refusal {name}") for name in REFUSAL_HEADERS]),
    ]  # fmt: skip
    return "\n".join(parts)


INTRODUCTION = """# Compatibility

The official SDKs, unmodified, against `idioteque serve`: each of their methods, and each header of the protocol. A row
says that it works when a test of `tests/compat/` calls it against a real server process with real deliveries, which
both official receivers verify; the suite writes this page, and fails while it is not up to date
(`python -m tests.compat.rows`).

Versions: `qstash` 3.4.0 from PyPI, `@upstash/qstash` 2.12.0 from npm.
"""


if __name__ == "__main__":
    TABLE.write_text(table())
