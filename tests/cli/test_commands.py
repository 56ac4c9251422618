"""The client commands, against a QStash that answers what each test writes down."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from click.testing import CliRunner

from idioteque.cli import main
from tests.cli.conftest import TOKEN, Asked, FakeQStash, Run

ACCEPTED = (200, {"messageId": "msg_1", "url": "https://shop.test/hook"})


def query(asked: Asked) -> dict[str, list[str]]:
    return parse_qs(urlsplit(asked.target).query)


# ---- publish


def test_publish_prints_the_id_and_sends_the_token(run: Run, qstash: FakeQStash) -> None:
    qstash.respond = lambda _: ACCEPTED
    result = run("publish", "https://shop.test/hook")
    assert (result.exit_code, result.stdout) == (0, "msg_1\n")
    [asked] = qstash.asked
    assert (asked.method, asked.target, asked.body) == ("POST", "/v2/publish/https://shop.test/hook", b"")
    assert asked.headers["authorization"] == f"Bearer {TOKEN}"
    assert not [name for name in asked.headers if name.startswith("upstash-")]


@pytest.mark.parametrize(
    ("destination", "target"),
    [
        ("https://ex.test/p//q?x=1&y=a%20b#frag", "https://ex.test/p//q?x=1&y=a%20b"),
        ("https://ex.test/a b/é", "https://ex.test/a%20b/%C3%A9"),
        ("https://ex.test/a%2Fb/../c//d", "https://ex.test/a%2Fb/../c//d"),
        ("http://127.0.0.1:8000/api/worker", "http://127.0.0.1:8000/api/worker"),
        ("my.group-1", "my.group-1"),
    ],
)
def test_publish_leaves_the_destination_as_it_is(run: Run, qstash: FakeQStash, destination: str, target: str) -> None:
    qstash.respond = lambda _: ACCEPTED
    assert run("publish", destination).exit_code == 0
    assert qstash.asked[0].target == f"/v2/publish/{target}"


def test_publish_turns_options_into_the_headers_of_the_protocol(run: Run, qstash: FakeQStash) -> None:
    qstash.respond = lambda _: ACCEPTED
    options = (
        "--method put --delay 1h30m --retries 0 --callback https://shop.test/cb --failure-callback https://shop.test/fcb"
        " --deduplication-id order-1 --label eu --label vip"
    )
    assert run("publish", "https://shop.test/hook", *options.split(), "--header", "X-Team: a, b").exit_code == 0
    headers = {k: v for k, v in qstash.asked[0].headers.items() if k.startswith("upstash-")}
    assert headers == {
        "upstash-method": "PUT",
        "upstash-delay": "5400s",
        "upstash-retries": "0",
        "upstash-callback": "https://shop.test/cb",
        "upstash-failure-callback": "https://shop.test/fcb",
        "upstash-deduplication-id": "order-1",
        "upstash-label": "eu,vip",
        "upstash-forward-x-team": "a, b",
    }


@pytest.mark.parametrize(("delay", "sent"), [("90", "90s"), ("0", "0s"), ("1.2", "2s"), ("3d", "259200s")])
def test_publish_takes_a_delay_as_a_number_or_as_text(run: Run, qstash: FakeQStash, delay: str, sent: str) -> None:
    qstash.respond = lambda _: ACCEPTED
    assert run("publish", "https://shop.test/hook", "--delay", delay).exit_code == 0
    assert qstash.asked[0].headers["upstash-delay"] == sent


def test_publish_reads_the_body_from_text_a_file_or_stdin(run: Run, qstash: FakeQStash, tmp_path: Path) -> None:
    qstash.respond = lambda _: ACCEPTED
    binary = bytes(range(256))
    (tmp_path / "body.bin").write_bytes(binary)
    run("publish", "https://shop.test/hook", "--data", '{"n": "é"}')
    run("publish", "https://shop.test/hook", "--data", f"@{tmp_path / 'body.bin'}")
    run("publish", "https://shop.test/hook", "--data", "-", stdin=b"from a pipe")
    assert [asked.body for asked in qstash.asked] == ['{"n": "é"}'.encode(), binary, b"from a pipe"]
    assert qstash.asked[0].headers["content-type"] == "application/json"
    assert "content-type" not in qstash.asked[1].headers


def test_publish_sends_a_content_type_that_was_given_as_it_is(run: Run, qstash: FakeQStash) -> None:
    qstash.respond = lambda _: ACCEPTED
    run("publish", "https://shop.test/hook", "--data", "{}", "--header", "content-type: application/cloudevents+json")
    assert qstash.asked[0].headers["content-type"] == "application/cloudevents+json"
    assert "upstash-forward-content-type" not in qstash.asked[0].headers


def test_publish_says_when_the_message_is_a_duplicate(run: Run, qstash: FakeQStash) -> None:
    qstash.respond = lambda _: (202, {"messageId": "msg_old", "url": "https://a.test", "deduplicated": True})
    result = run("publish", "https://a.test")
    assert (result.exit_code, result.stdout) == (0, "msg_old\n")
    assert "duplicate" in result.stderr


def test_publish_to_a_group_prints_one_id_for_each_endpoint(run: Run, qstash: FakeQStash) -> None:
    endpoints = [{"messageId": "msg_1", "url": "https://a.test"}, {"messageId": "msg_2", "url": "https://b.test"}]
    qstash.respond = lambda _: (200, endpoints)
    assert run("publish", "my-group").stdout == "msg_1\nmsg_2\n"
    assert json.loads(run("publish", "my-group", "--json").stdout) == endpoints


@pytest.mark.parametrize(
    "arguments",
    [
        ["shop.test/hook"],
        ["ftp://shop.test/hook"],
        ["https:///hook"],
        ["https://shop.test:port/"],
        ["https://shop.test/\r\nX: y"],
        ["https://shop.test", "--delay", "soon"],
        ["https://shop.test", "--delay", "-1"],
        ["https://shop.test", "--delay", "nan"],
        ["https://shop.test", "--data", "@/no/such/file"],
        ["https://shop.test", "--header", "no colon"],
        ["https://shop.test", "--header", "bad name: x"],
        ["https://shop.test", "--header", "X-A: b\r\nInjected: yes"],
        ["https://shop.test", "--label", "a\nb"],
        ["https://shop.test", "--callback", "https://a.test/\u2028"],
        ["https://shop.test", "--method", "BREW"],
    ],
)
def test_publish_refuses_bad_input_before_anything_is_sent(run: Run, qstash: FakeQStash, arguments: list[str]) -> None:
    result = run("publish", *arguments)
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert qstash.asked == []


# ---- messages


def test_messages_show_prints_the_fields(run: Run, qstash: FakeQStash) -> None:
    message = {"messageId": "msg_1", "url": "https://a.test", "createdAt": 0, "header": {"A": ["b"]}, "maxRetries": 3}
    qstash.respond = lambda _: (200, message)
    shown = run("messages", "show", "msg_1")
    assert "createdAt\t1970-01-01 00:00:00.000Z" in shown.stdout.splitlines()
    assert json.loads(run("messages", "show", "msg_1", "--json").stdout) == message
    assert qstash.asked[0].target == "/v2/messages/msg_1"


def test_an_id_cannot_leave_its_place_in_the_path(run: Run, qstash: FakeQStash) -> None:
    run("messages", "cancel", "../dlq?x=1")
    assert [asked.target for asked in qstash.asked] == ["/v2/messages/..%2Fdlq%3Fx%3D1"]
    assert run("messages", "cancel", "").exit_code == 2
    assert run("dlq", "show", "..").exit_code == 2
    assert len(qstash.asked) == 1


def test_messages_cancel_names_those_that_are_over(run: Run, qstash: FakeQStash) -> None:
    qstash.respond = lambda asked: (404, {"error": "not found"}) if "gone" in asked.target else (200, {"cancelled": 1})
    assert run("messages", "cancel", "msg_1", "msg_2").stdout == "cancelled 2 of 2\n"
    result = run("messages", "cancel", "msg_gone", "msg_1")
    assert (result.exit_code, result.stdout) == (1, "cancelled 1 of 2\n")
    assert "msg_gone" in result.stderr


def test_messages_list_shows_the_last_state_of_each(run: Run, qstash: FakeQStash) -> None:
    entries = [
        {"time": 30, "messageId": "msg_2", "state": "ACTIVE", "url": "https://b.test"},
        {"time": 20, "messageId": "msg_1", "state": "DELIVERED", "url": "https://a.test"},
        {"time": 10, "messageId": "msg_1", "state": "CREATED", "url": "https://a.test"},
    ]
    qstash.respond = lambda _: (200, {"events": entries})
    rows = [line.split("\t")[1:3] for line in run("messages", "list", "--label", "vip").stdout.splitlines()]
    assert rows == [["msg_2", "ACTIVE"], ["msg_1", "DELIVERED"]]
    assert query(qstash.asked[0])["label"] == ["vip"]


# ---- dead letters


class DeadLetters:
    """A DLQ of so many letters, served in pages, that keeps what was done to it."""

    def __init__(self, count: int, page: int = 100) -> None:
        self.ids = [f"dlq_{n}" for n in range(count)]
        self.page = page
        self.confirmations = 0

    def __call__(self, asked: Asked) -> tuple[int, object]:
        if asked.method == "GET":
            start = int(query(asked).get("cursor", ["0"])[0])
            count = min(self.page, int(query(asked)["count"][0]))
            rows = [{"dlqId": i, "messageId": f"msg_of_{i}", "responseStatus": 500} for i in self.ids]
            more = {"cursor": str(start + count)} if start + count < len(rows) else {}
            return 200, {"messages": rows[start : start + count], **more}
        chosen = [one for one in query(asked)["dlqIds"] if one in self.ids]
        self.ids = [one for one in self.ids if one not in chosen]
        if asked.method == "DELETE":
            return 200, {"deleted": len(chosen)}
        return 201, {"cursor": "", "responses": [{"messageId": "msg_new"} for _ in chosen]}


def test_dlq_list_reads_pages_up_to_the_limit(run: Run, qstash: FakeQStash) -> None:
    qstash.respond = DeadLetters(250)
    assert len(run("dlq", "list", "--limit", "120").stdout.splitlines()) == 120
    assert [query(asked)["count"] for asked in qstash.asked] == [["100"], ["20"]]
    rows = json.loads(run("dlq", "list", "--limit", "1000", "--json").stdout)
    assert [row["dlqId"] for row in rows] == [f"dlq_{n}" for n in range(250)]


def test_dlq_list_passes_its_filters_on(run: Run, qstash: FakeQStash) -> None:
    qstash.respond = lambda _: (200, {"messages": []})
    run("dlq", "list", "--url", "https://a.test", "--label", "x", "--label", "y", "--queue", "q", "--status", "500")
    asked = query(qstash.asked[0])
    del asked["count"]
    assert asked == {"url": ["https://a.test"], "label": ["x", "y"], "queueName": ["q"], "responseStatus": ["500"]}


def test_an_empty_list_is_empty_json(run: Run, qstash: FakeQStash) -> None:
    qstash.respond = lambda _: (200, {"messages": []})
    assert run("dlq", "list").stdout == ""
    assert json.loads(run("dlq", "list", "--json").stdout) == []


@pytest.mark.parametrize("verb", ["retry", "delete"])
def test_dlq_acts_on_the_letters_named(run: Run, qstash: FakeQStash, verb: str) -> None:
    letters = qstash.respond = DeadLetters(3)
    result = run("dlq", verb, "dlq_0", "dlq_2", "dlq_0")
    assert result.exit_code == 0
    assert "2 of 2" in result.stdout
    assert letters.ids == ["dlq_1"]


@pytest.mark.parametrize("verb", ["retry", "delete"])
def test_dlq_says_that_a_letter_is_gone(run: Run, qstash: FakeQStash, verb: str) -> None:
    qstash.respond = DeadLetters(1)
    result = run("dlq", verb, "dlq_0", "dlq_gone")
    assert result.exit_code == 1
    assert "1 of 2" in result.stdout
    assert len(result.stderr.splitlines()) == 1


def test_dlq_retries_one_by_one_where_a_missing_letter_refuses_the_whole(run: Run, qstash: FakeQStash) -> None:
    def respond(asked: Asked) -> tuple[int, object]:
        refused = "?" in asked.target or asked.target.endswith("dlq_gone")
        return (404, {"error": "some messages not found"}) if refused else (201, {"messageId": "msg_new"})

    qstash.respond = respond
    assert "1 of 2" in run("dlq", "retry", "dlq_0", "dlq_gone").stdout
    assert [asked.target for asked in qstash.asked[1:]] == ["/v2/dlq/retry/dlq_0", "/v2/dlq/retry/dlq_gone"]


@pytest.mark.parametrize("verb", ["retry", "delete"])
def test_dlq_all_asks_first_and_takes_only_what_there_was(run: Run, qstash: FakeQStash, verb: str) -> None:
    letters = qstash.respond = DeadLetters(250)
    refused = run("dlq", verb, "--all", stdin=b"n\n")
    assert refused.exit_code == 1
    assert f"{verb} 250 dead letters?" in refused.stderr
    assert len(letters.ids) == 250
    assert "250 of 250" in run("dlq", verb, "--all", stdin=b"y\n").stdout
    assert letters.ids == []
    sent = [len(query(asked)["dlqIds"]) for asked in qstash.asked if asked.method != "GET"]
    assert sent == [100, 100, 50]


def test_dlq_all_asks_nothing_with_yes_and_nothing_of_an_empty_queue(run: Run, qstash: FakeQStash) -> None:
    letters = qstash.respond = DeadLetters(2)
    assert run("dlq", "delete", "--all", "--yes").exit_code == 0
    assert letters.ids == []
    assert "0 of 0" in run("dlq", "delete", "--all").stdout


@pytest.mark.parametrize(
    "arguments", [["delete"], ["retry", "dlq_1", "--all"], ["delete", "dlq_1", "--label", "x"], ["delete", "--yes"]]
)
def test_dlq_refuses_an_unclear_choice(run: Run, qstash: FakeQStash, arguments: list[str]) -> None:
    result = run("dlq", *arguments)
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert qstash.asked == []


# ---- logs


def test_logs_print_the_latest_last_in_columns(run: Run, qstash: FakeQStash) -> None:
    entries = [{"time": n, "messageId": f"msg_{n}", "state": "CREATED", "url": "https://a.test"} for n in (3, 2, 1)]
    qstash.respond = lambda _: (200, {"events": entries, "logs": entries})
    lines = run("logs", "--state", "created", "--message-id", "msg_1", "--limit", "7").stdout.splitlines()
    assert [line.split("\t")[1] for line in lines] == ["msg_1", "msg_2", "msg_3"]
    assert query(qstash.asked[0]) == {"state": ["CREATED"], "messageId": ["msg_1"], "count": ["7"]}


def test_logs_never_print_what_a_terminal_would_obey(run: Run, qstash: FakeQStash) -> None:
    entry = {"time": 1, "messageId": "msg_1", "state": "ERROR", "url": "https://a.test", "error": "\x1b[2J\n\u202eoops"}
    qstash.respond = lambda _: (200, {"events": [entry]})
    printed = run("logs").stdout
    assert printed.isascii()
    assert "\\x1b[2J\\n\\u202eoops" in printed
    assert len(printed.splitlines()) == 1


# ---- settings and refusals


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({}, "QSTASH_TOKEN"),
        ({"QSTASH_TOKEN": "a b\nc"}, "QSTASH_TOKEN"),
        ({"QSTASH_TOKEN": "t", "QSTASH_URL": "shop.test"}, "QSTASH_URL"),
        ({"QSTASH_TOKEN": "t", "QSTASH_URL": "http://a.test:99999"}, "QSTASH_URL"),
        ({"QSTASH_TOKEN": "t", "QSTASH_URL": "http://a.test/?x=1"}, "QSTASH_URL"),
        ({"QSTASH_DEV": "perhaps"}, "QSTASH_DEV"),
        ({"QSTASH_DEV": "true", "QSTASH_DEV_PORT": "8o"}, "QSTASH_DEV_PORT"),
    ],
)
def test_a_setting_that_is_missing_or_odd_is_named(
    environment: dict[str, str], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    result = CliRunner().invoke(main, ["messages", "show", "msg_1"])
    assert result.exit_code == 2
    assert named in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_dev_mode_speaks_to_the_local_port_with_the_published_token(
    run: Run, qstash: FakeQStash, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QSTASH_DEV", "1")
    monkeypatch.setenv("QSTASH_DEV_PORT", str(urlsplit(qstash.url).port))
    monkeypatch.setenv("QSTASH_URL", "http://192.0.2.1")
    assert run("messages", "show", "msg_1").exit_code == 0
    assert qstash.asked[0].headers["authorization"].startswith("Bearer eyJVc2VySUQiOiJkZWZhdWx0VXNlciI")


@pytest.mark.parametrize("suffix", ["/", "//", "/v2/publish", "/v2/publish/"])
def test_the_usual_ways_to_write_the_url_work(
    run: Run, qstash: FakeQStash, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setenv("QSTASH_URL", qstash.url + suffix)
    assert run("messages", "show", "msg_1").exit_code == 0
    assert qstash.asked[0].target == "/v2/messages/msg_1"


@pytest.mark.parametrize(
    ("status", "answer", "said"),
    [
        (401, {"error": "unauthorized"}, "answered 401: unauthorized"),
        (500, b"<h1>oops\x1b[31m</h1>", "answered 500: <h1>oops\\x1b[31m</h1>"),
        (400, {"error": f"the token {TOKEN} is wrong\nand\tmore"}, "the token [token] is wrong"),
        (503, b"", "answered 503: (no text)"),
        (307, b"", "answered 307"),
        (200, b"<html>", "no JSON"),
        (200, [1, 2], "not a JSON object"),
        (200, b"[" * 100_000, "no JSON"),
    ],
)
def test_a_refusal_is_one_line_and_exit_code_1(
    run: Run, qstash: FakeQStash, status: int, answer: object, said: str
) -> None:
    qstash.respond = lambda _: (status, answer)
    result = run("messages", "show", "msg_1")
    assert result.exit_code == 1
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_no_answer_at_all_is_one_line_and_exit_code_1(
    run: Run, unused_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QSTASH_URL", f"http://127.0.0.1:{unused_port}")
    result = run("dlq", "list")
    assert result.exit_code == 1
    assert f"no connection to http://127.0.0.1:{unused_port}" in result.stderr
    assert len(result.stderr.splitlines()) == 1


# ---- what another QStash does not tell


def test_who_waits_is_told_by_our_own_server_alone(run: Run, qstash: FakeQStash) -> None:
    qstash.respond = lambda _: (404, {"error": "not found"})
    result = run("queues", "waiting", "q")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "does not tell who waits" in result.stderr
