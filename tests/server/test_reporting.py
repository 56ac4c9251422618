"""What the server writes to its log: no secrets, no forged lines."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import logging
import socket
from pathlib import Path

import pytest

from idioteque.server.reporting import JsonLines, OneLine, redacted
from tests.destination import open_destination, until
from tests.processes import start_server

SECRETS = [f"canary-{place:02d}-7f3a9c" for place in range(20)]


def line(message: str, *, error: BaseException | None = None) -> str:
    trace = (type(error), error, error.__traceback__) if error is not None else None
    return OneLine().format(logging.LogRecord("x", logging.ERROR, "x.py", 1, message, (), trace))


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer SECRET99",
        "authorization=Basic SECRET99",
        "{'Authorization': 'Bearer SECRET99'}",
        '{"x-api-key": "SECRET99"}',
        "X-Api-Token: SECRET99",
        "[('Cookie', 'session=SECRET99; b=SECRET99')]",
        "Set-Cookie: SECRET99",
        "Upstash-Signature: eyJhbGciOiJIUzI1NiJ9.SECRET99",
        "https://user:SECRET99@shop.test/x",
        "https://shop.test/x?api_key=SECRET99&b=SECRET99",
        "the key sig_SECRET99SECRET99 was used",
        "client_secret = SECRET99",
        "password=SECRET99",
        '["cookie", "SECRET99"]',
        '"token", SECRET99',
        '{"a": "token", "SECRET99": 1}',
    ],
)
def test_what_looks_like_a_secret_is_not_logged(text: str) -> None:
    assert "SECRET99" not in redacted(text)


def test_plain_texts_are_logged_as_they_are() -> None:
    text = "no connection to https://shop.test:8443: [Errno 111] refused; 3 dead letters are deleted"
    assert redacted(text) == text


def test_a_line_of_the_audit_trail_stays_the_json_that_it_is() -> None:
    for who in ("token", "read-only token"):
        act = json.dumps(
            {"at_ms": 1, "who": who, "peer": "127.0.0.1", "what": "login", "target": "token", "outcome": ""}
        )
        assert redacted(act) == act


@pytest.mark.parametrize("forged", ["\n", "\r\n", "\x1b[2J", "\x00", "\u2028", "\u202e", "\x85"])
def test_no_text_begins_a_line_of_its_own_or_reaches_the_terminal(forged: str) -> None:
    text = line(f"failed: {forged}2026-01-01 ERROR all is lost")
    assert forged not in text
    assert len(text.splitlines()) == 1


def test_a_traceback_stays_behind_its_margin() -> None:
    try:
        raise ValueError("token=SECRET99\n2026-01-01 00:00:00,000 ERROR forged")
    except ValueError as error:
        lines = line("it failed", error=error).splitlines()
    assert "SECRET99" not in "\n".join(lines)
    assert all(each.startswith("    | ") for each in lines[1:])
    assert len(lines) > 2


def test_a_record_in_json_has_fixed_fields_and_no_secret() -> None:
    try:
        raise ValueError("password=SECRET99 at postgresql://u:SECRET99@db.test/x")
    except ValueError as error:
        trace = (type(error), error, error.__traceback__)
    said = "Bearer SECRET99\n\u202e sig_SECRET99SECRET99 %s"
    record = logging.LogRecord("idioteque.x", logging.ERROR, "x.py", 1, said, ("http://u:SECRET99@h/",), trace)
    record.created = 1_700_000_000.25
    record.run_id, record.message_id, record.body = "run_1", "http://u:SECRET99@h/", "SECRET99"
    text = JsonLines().format(record)
    assert "SECRET99" not in text
    assert text.isascii()
    assert len(text.splitlines()) == 1
    fields = json.loads(text)
    assert set(fields) == {"time", "level", "logger", "message", "exception", "run_id", "message_id"}
    assert fields["time"] == "2023-11-14T22:13:20.250+00:00"
    assert (fields["level"], fields["logger"], fields["run_id"]) == ("ERROR", "idioteque.x", "run_1")
    assert fields["message"] == "Bearer ***\n\u202e sig_*** http://***@h/"
    assert "ValueError" in fields["exception"]


@pytest.mark.parametrize("form", ["text", "json"])
def test_twenty_planted_secrets_turn_up_in_no_log_and_no_refusal(tmp_path: Path, form: str) -> None:
    token = base64.b64encode(json.dumps({"UserID": "u", "Password": SECRETS[2]}).encode()).decode()
    credentials = {
        "QSTASH_CURRENT_SIGNING_KEY": f"sig_{SECRETS[0]}",
        "QSTASH_NEXT_SIGNING_KEY": f"sig_{SECRETS[1]}",
        "QSTASH_TOKEN": token,
        "QSTASH_READONLY_TOKEN": SECRETS[3],
    }
    silent = socket.socket()
    silent.bind(("127.0.0.1", 0))  # and never listens: connections are refused
    nowhere = f"127.0.0.1:{silent.getsockname()[1]}"
    planted = {
        "Upstash-Retries": "0",
        "Upstash-Forward-Authorization": f"Bearer {SECRETS[4]}",
        "Upstash-Forward-Cookie": f"session={SECRETS[5]}",
        "Upstash-Forward-X-Api-Key": SECRETS[6],
        "Upstash-Forward-X-Plain": SECRETS[7],
        "Upstash-Callback": f"http://u:{SECRETS[8]}@{nowhere}/?t={SECRETS[9]}",
    }
    answer = (500, {"Set-Cookie": SECRETS[10], "X-Token": SECRETS[11]}, SECRETS[12].encode())
    server = start_server(tmp_path, env=credentials, args=("--log-format", form))
    said: list[str] = []

    def send(method: str, target: str, body: str = "", bearer: str = token, **headers: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        connection.request(method, target, body, {"Authorization": f"Bearer {bearer}", **headers})
        with contextlib.closing(connection), connection.getresponse() as response:
            return response.status, f"{response.headers}{response.read().decode()}"

    def refused(status: int, *request: str, **headers: str) -> None:
        given, text = send(*request, **headers)
        assert given == status, text
        said.append(text)

    with silent, open_destination(lambda _: answer) as destination:
        host, query = f"u:{SECRETS[13]}@127.0.0.1:{destination.port}", f"?q={SECRETS[14]}"
        for url in (f"http://{host}/x{query}", f"http://u:{SECRETS[13]}@{nowhere}/x{query}"):
            assert send("POST", f"/v2/publish/{url}", SECRETS[15], **planted)[0] == 200
        refused(400, "POST", f"/v2/publish/http://{host}/{query}", SECRETS[15], **{**planted, "Upstash-Delay": "soon"})
        refused(400, "POST", f"/v2/publish/ftp://u:{SECRETS[16]}@x.test/{query}", SECRETS[15], **planted)
        refused(401, "GET", f"/v2/messages/x?qstash_token={SECRETS[19]}", "", SECRETS[18])
        refused(403, "POST", "/v2/keys/rotate", "", SECRETS[3])
        refused(404, "GET", f"/v2/nothing?x={SECRETS[17]}")
        refused(400, "DELETE", f"/v2/messages?nothing={SECRETS[17]}")
        refused(200, "POST", "/v2/batch", json.dumps([{"destination": "x", "body": SECRETS[15]}]))
        until(lambda: send("GET", "/v2/dlq")[1].count("dlqId") == 4)  # both messages, and their callbacks
    assert server.stop() == 0
    said.extend(server.lines)
    assert [secret for secret in SECRETS if secret in "\n".join(said)] == []


def test_a_server_with_json_logs_warns_in_json(tmp_path: Path) -> None:
    first = start_server(tmp_path)
    connection = http.client.HTTPConnection("127.0.0.1", first.port, timeout=20)
    connection.request("POST", "/v2/keys/rotate", headers={"Authorization": f"Bearer {first.token}"})
    with contextlib.closing(connection), connection.getresponse() as response:
        assert response.status == 200
    assert first.stop() == 0
    second = start_server(tmp_path, args=("--log-format", "json"))
    assert second.stop() == 0
    [warning] = [json.loads(line) for line in second.lines if line.startswith("{")]
    assert (warning["level"], "stale" in warning["message"]) == ("WARNING", True)
    assert set(warning) == {"time", "level", "logger", "message"}
    said = "\n".join(second.lines)
    assert [secret for secret in (first.token, first.current_key, first.next_key) if secret in said] == []
