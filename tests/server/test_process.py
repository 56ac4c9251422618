"""The server as a process: sockets, signals, exit codes, kills."""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.client
import json
import resource
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.destination import Destination, Received, open_destination, until
from tests.processes import (
    CURRENT_KEY,
    NEXT_KEY,
    TOKEN,
    ServerProcess,
    server_command,
    server_environment,
    start_server,
)


@pytest.fixture
def destination() -> Iterator[Destination]:
    with open_destination() as opened:
        yield opened


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    process = start_server(tmp_path)
    yield process
    process.stop()


def call(server: ServerProcess, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    try:
        connection.request(method, path, body, {"Authorization": f"Bearer {server.token}", **headers})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def raw_call(server: ServerProcess, target: str, *lines: str, body: bytes = b"") -> tuple[int, Any]:
    """Send a request whose target is exactly this."""
    head = "\r\n".join(
        [f"POST {target} HTTP/1.1", "Host: 127.0.0.1", f"Authorization: Bearer {server.token}", "Connection: close",
         f"Content-Length: {len(body)}", *lines, "", ""]
    )  # fmt: skip
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(head.encode("latin-1") + body)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    head_bytes, _, content = answer.partition(b"\r\n\r\n")
    return int(head_bytes.split(b" ")[1]), json.loads(content)


@pytest.mark.parametrize(
    "path",
    ["", "/", "//a//b", "/a%20b/%C3%A9", "/%2F%2e%2e/x", "/x;y=1", "/x?a=1&b=%2B&a=2", "/?next=https://o.test//", "?x"],
)
def test_what_is_published_is_what_is_requested(server: ServerProcess, destination: Destination, path: str) -> None:
    url = destination.url + path
    assert raw_call(server, f"/v2/publish/{url}", body=b"x")[1]["url"] == url
    (request,) = destination.wait_for(1)
    assert request.target.removeprefix("/") == path.removeprefix("/")


def test_an_absolute_form_target_is_understood(server: ServerProcess, destination: Destination) -> None:
    url = f"{destination.url}//x?y=1"
    status, reply = raw_call(server, f"http://127.0.0.1:{server.port}/v2/publish/{url}")
    assert (status, reply["url"]) == (200, url)
    assert destination.wait_for(1)[0].target == "//x?y=1"


def test_a_lost_slash_is_given_back(server: ServerProcess, destination: Destination) -> None:
    assert raw_call(server, f"/v2/publish/{destination.url.replace('//', '/')}/x")[0] == 200
    assert destination.wait_for(1)[0].target == "/x"


def test_a_delivery_has_exactly_these_headers(server: ServerProcess, destination: Destination) -> None:
    call(server, "POST", f"/v2/publish/{destination.url}/x", b"{}", **{"Content-Type": "application/json"})
    (request,) = destination.wait_for(1)
    assert set(request.headers) == {
        "host", "accept-encoding", "content-length", "content-type", "user-agent", "upstash-signature",
        "upstash-message-id", "upstash-retried", "upstash-caller-ip",
    }  # fmt: skip
    assert request.headers["host"] == f"127.0.0.1:{destination.port}"


def test_private_destinations_need_a_flag_and_names_are_judged_when_resolved(tmp_path: Path) -> None:
    server = start_server(tmp_path, allow_loopback=False)
    try:
        status, reply = call(server, "POST", "/v2/publish/http://127.0.0.1:3999/")
        assert (status, "--allow-private 127.0.0.1/32" in reply["error"]) == (400, True)
        own_name = socket.gethostname()
        if not all(
            answer[4][0].startswith(("127.", "172.", "10.", "192.168.")) for answer in socket.getaddrinfo(own_name, 80)
        ):
            own_name = "localhost.localdomain"
        status, reply = call(server, "POST", f"/v2/publish/http://{own_name}:9999/", **{"Upstash-Retries": "0"})
        assert status == 200
        until(lambda: bool(call(server, "GET", "/v2/dlq")[1]["messages"]))
        (letter,) = call(server, "GET", "/v2/dlq")[1]["messages"]
        assert letter["responseStatus"] == 0
        assert letter["error"]
    finally:
        server.stop()


def test_the_server_sends_nothing_to_itself(server: ServerProcess) -> None:
    url = f"http://127.0.0.1:{server.port}/v2/publish/http://127.0.0.1:{server.port}/"
    assert call(server, "POST", f"/v2/publish/{url}", **{"Upstash-Retries": "0"})[0] == 200
    until(lambda: bool(call(server, "GET", "/v2/dlq")[1]["messages"]))
    assert "this server itself" in call(server, "GET", "/v2/dlq")[1]["messages"][0]["error"]


def test_rewritten_origins_are_signed_and_named_as_published(tmp_path: Path, destination: Destination) -> None:
    server = start_server(
        tmp_path, args=["--rewrite", f"https://app.example.com={destination.url}"], allow_loopback=False
    )
    try:
        reply = call(server, "POST", "/v2/publish/https://app.example.com/api//x?y=1")[1]
        assert reply["url"] == "https://app.example.com/api//x?y=1"
        (request,) = destination.wait_for(1)
        assert (request.target, request.headers["host"]) == ("/api//x?y=1", "app.example.com")
    finally:
        server.stop()


def test_sigterm_lets_deliveries_end_and_answers_zero(tmp_path: Path) -> None:
    release = threading.Event()

    def answer(request: Received) -> Any:
        async def wait() -> int:
            import asyncio

            await asyncio.get_running_loop().run_in_executor(None, release.wait, 20)
            return 200

        return wait()

    with open_destination(answer) as destination:
        server = start_server(tmp_path)
        message_id = call(server, "POST", f"/v2/publish/{destination.url}")[1]["messageId"]
        destination.wait_for(1)
        server.terminate()
        until(lambda: not accepts(server.port))
        assert server.exit_code is None
        release.set()
        assert server.process.wait(20) == 0
        again = start_server(tmp_path)
        try:
            events = call(again, "GET", f"/v2/events?messageId={message_id}&order=earliestFirst")[1]["events"]
            assert [event["state"] for event in events] == ["CREATED", "ACTIVE", "DELIVERED"]
            assert len(destination.received) == 1
        finally:
            again.stop()


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def run_to_the_end(tmp_path: Path, *args: str, env: dict[str, str] | None = None, port: int = 0) -> tuple[int, str]:
    ended = subprocess.run(
        server_command(tmp_path, args=args, port=port),
        env=server_environment(env),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return ended.returncode, ended.stderr.strip()


def test_a_used_port_is_one_clear_line_and_exit_code_2(tmp_path: Path, server: ServerProcess) -> None:
    directory = tmp_path / "other"
    directory.mkdir()
    code, text = run_to_the_end(directory, port=server.port)
    assert (code, text) == (2, f"Error: port {server.port} of 127.0.0.1 is in use; choose another one with --port")


def test_a_database_that_cannot_be_used_is_one_clear_line_and_exit_code_2(
    tmp_path: Path, server: ServerProcess
) -> None:
    code, text = run_to_the_end(tmp_path)
    assert code == 2
    assert "is in use by another server process" in text
    assert len(text.splitlines()) == 1
    code, text = run_to_the_end(tmp_path / "missing" / "directory")
    assert code == 2
    assert text.startswith("Error: ")
    assert len(text.splitlines()) == 1
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "server.db").write_bytes(b"this is no database" * 1000)
    code, text = run_to_the_end(broken)
    assert (code, len(text.splitlines())) == (2, 1)


@pytest.mark.parametrize(
    "args",
    [
        ["--allow-private", "nonsense"],
        ["--rewrite", "nonsense"],
        ["--dev", "--host", "0.0.0.0"],
        ["--host", "203.0.113.1"],
        ["--durability", "none"],
        ["--database", "mysql://x"],
        ["--database", "postgresql://127.0.0.1/x"],
    ],
)
def test_bad_arguments_are_one_clear_line_and_exit_code_2(tmp_path: Path, args: list[str]) -> None:
    code, text = run_to_the_end(tmp_path, *args)
    assert code == 2
    assert text.startswith("Error: ")
    assert len(text.splitlines()) == 1


def test_made_credentials_are_left_in_a_private_file(tmp_path: Path) -> None:
    nothing = {"QSTASH_TOKEN": "", "QSTASH_CURRENT_SIGNING_KEY": "", "QSTASH_NEXT_SIGNING_KEY": ""}
    server = start_server(tmp_path, env=nothing)
    try:
        (line,) = [line for line in server.lines if "they are in" in line]
        path = Path(line.rpartition(" ")[2])
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE((tmp_path / "server.db").stat().st_mode) == 0o600
        made = dict(line.split("=", 1) for line in path.read_text().splitlines())
        server.token = made["QSTASH_TOKEN"]
        assert call(server, "GET", "/v2/keys")[1] == {
            "current": made["QSTASH_CURRENT_SIGNING_KEY"],
            "next": made["QSTASH_NEXT_SIGNING_KEY"],
        }
        assert server.token not in "\n".join(server.lines)
    finally:
        server.stop()


def test_the_environments_credentials_are_used(server: ServerProcess) -> None:
    assert call(server, "GET", "/v2/keys") == (200, {"current": CURRENT_KEY, "next": NEXT_KEY})
    server.token = TOKEN[:-1]
    assert call(server, "GET", "/v2/keys")[0] == 401


def test_a_killed_worker_gets_its_messages_again_soon_after_it_is_back(server: ServerProcess) -> None:
    with open_destination() as first:
        port = first.port
        url = first.url
    call(server, "POST", f"/v2/publish/{url}")
    until(lambda: any(e["state"] == "RETRY" for e in call(server, "GET", "/v2/events")[1]["events"]))
    begun_s = time.monotonic()
    with open_destination(port=port) as back:
        back.wait_for(1)
    assert time.monotonic() - begun_s < 5


def test_what_was_accepted_is_delivered_though_the_server_is_killed_again_and_again(
    tmp_path: Path, unused_port: int, destination: Destination
) -> None:
    accepted: set[str] = set()
    stop = threading.Event()

    def publish_until_told() -> None:
        while not stop.is_set():
            try:
                status, reply = call(server, "POST", f"/v2/publish/{destination.url}", b"x", **{"Upstash-Delay": "1s"})
                if status == 200:
                    accepted.add(reply["messageId"])
                status, reply = call(server, "POST", f"/v2/publish/{destination.url}", b"y")
                if status == 200:
                    accepted.add(reply["messageId"])
            except (OSError, http.client.HTTPException, json.JSONDecodeError):
                continue

    server = start_server(tmp_path, port=unused_port)
    with concurrent.futures.ThreadPoolExecutor(4) as publishers:
        running = [publishers.submit(publish_until_told) for _ in range(4)]
        try:
            for _ in range(4):
                before = len(accepted)
                until(lambda before=before: len(accepted) >= before + 40)
                server.kill()
                server = start_server(tmp_path, port=unused_port)
        finally:
            stop.set()
        for each in running:
            each.result()
    try:
        buried = {letter["messageId"] for letter in call(server, "GET", "/v2/dlq")[1]["messages"]}
        until(lambda: accepted <= destination.message_ids | buried)
        assert len(accepted) >= 160
        assert len(destination.received) - len(destination.message_ids) <= 4 * 8
        until(lambda: call(server, "DELETE", "/v2/messages")[1] == {"cancelled": 0})
    finally:
        assert server.stop() == 0


def test_a_failing_disk_stops_the_server_with_an_error(tmp_path: Path) -> None:
    server = start_server(tmp_path)
    # From now on a write beyond the first bytes of a file fails, and not for want of room.
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (32, 32))
    with contextlib.suppress(OSError, http.client.HTTPException):
        status, reply = call(server, "POST", "/v2/publish/http://127.0.0.1:3999/", b"x" * 100_000)
        assert (status, list(reply)) == (503, ["error"])
    assert server.process.wait(30) == 1
    until(lambda: any("idioteque stopped" in line for line in server.lines))
