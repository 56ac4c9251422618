"""What the server's process logs: one line for a record, without secrets, and nothing that a stranger can forge."""

from __future__ import annotations

import json
import logging
import re
from datetime import UTC, datetime
from typing import Literal

LogFormat = Literal["text", "json"]

TRACE_MARGIN = "    | "  # before each line of a traceback, so that none can pass for a record

_SECRETS = (
    (re.compile(r"\bsig_[A-Za-z0-9_-]{8,}"), "sig_***"),
    (re.compile(r"\b(bearer|basic)[ :]+[A-Za-z0-9+/=._~-]{4,}", re.IGNORECASE), r"\1 ***"),
    (re.compile(r"\beyJ[A-Za-z0-9+/=._-]{12,}"), "***"),  # tokens and signatures are JSON in base64
    (re.compile(r"(://)[^/@\s'\"]+@"), r"\1***@"),
    (re.compile(r"([?&][^=&\s'\"]{1,100}=)[^&\s'\"]+"), r"\1***"),
    (
        re.compile(
            r"(['\"]?[\w-]*(?:authorization|cookie|token|secret|api-?key|signature|password)[\w-]*['\"]?\s*"
            r"(?:[:=]|,(?!\s*\"(?-i:[a-z_]{1,20})\"\s*:))\s*)"  # but not `"who": "token", "peer":`, with a name
            r"(?:\"[^\"]*\"|'[^']*'|b'[^']*'|[^\s,;)}\]]+)",
            re.IGNORECASE,
        ),
        r"\1***",
    ),
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def redacted(text: str) -> str:
    """Return a text without what looks like a secret: tokens, keys, user info and query values of URLs."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def escaped(text: str) -> str:
    """Return a text as one line: control characters, and those that turn the reading direction, become visible."""
    return _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


class OneLine(logging.Formatter):
    """Time, level and message; a traceback follows with a margin."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name is logging's
        return escaped(redacted(super().formatMessage(record)))

    def formatException(self, ei: object) -> str:  # noqa: N802
        text = super().formatException(ei)  # type: ignore[arg-type]  # logging's own alias is not public
        return "\n".join(TRACE_MARGIN + escaped(redacted(line)) for line in text.splitlines())


RECORD_FIELDS = ("run_id", "event_id", "function_id", "message_id")
"""What a record may carry beside its message; nothing else of it is written."""


class JsonLines(logging.Formatter):
    """One JSON object for a record: `time` in UTC, `level`, `logger`, `message`, `exception` where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": redacted(record.getMessage()),
        }
        if record.exc_info:
            fields["exception"] = redacted(self.formatException(record.exc_info))
        for name in RECORD_FIELDS:
            value: object = getattr(record, name, None)
            if value is not None:
                fields[name] = redacted(str(value))
        return json.dumps(fields)  # in ASCII, so that no character of a stranger's reaches a terminal


def log_lines(form: LogFormat = "text") -> None:
    """Send warnings, and all of the audit trail, to stderr, one line for each."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if form == "json" else OneLine())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("idioteque.audit").setLevel(logging.INFO)
