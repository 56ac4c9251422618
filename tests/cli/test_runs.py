"""`idioteque runs`, on a store in a file that a worker has filled before."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from click.testing import CliRunner, Result
from pydantic import BaseModel

from idioteque import Context, HttpRequest, InlineDispatcher, NonRetryableError, Published, Retry, Worker
from idioteque.cli import main
from idioteque.cli.stores import Place
from idioteque.dispatchers import QStashDispatcher
from idioteque.function import run_id as id_of_run
from idioteque.store import NewRun, Trouble
from tests.cli.conftest import FakeQStash, Run

MOUNT_URL = "https://app.example.com/api/worker"

NEW_RUN = NewRun("evt_lost", "pay", b'{"type": "order", "id": "pay-lost"}')
STALLED = id_of_run("evt_lost", "pay")

APP = """
from pydantic import BaseModel

from idioteque import QStashDispatcher, Worker

class Order(BaseModel):
    type: str

worker = Worker(
    events_schema=Order,
    store="sqlite:///runs.db",
    dispatcher=QStashDispatcher(mount_url="https://app.example.com/api/worker"),
)
number = 1
"""


class Order(BaseModel):
    type: Literal["order"] = "order"
    id: str = "1"


class Shop:
    """A worker over a file; its functions pay, remind and invoke, and paying is refused while `is_broke`."""

    def __init__(self, path: Path) -> None:
        self.url = f"sqlite:///{path}"
        self.runner = asyncio.Runner()  # commands start a loop of their own, so no other may be running
        self.is_broke = True
        self.dispatcher = InlineDispatcher()
        self.worker = Worker(events_schema=Order, store=self.url, dispatcher=self.dispatcher)
        self.charges = 0

        async def look_up(order_id: str) -> str:
            self.charges += 1
            return f"card of {order_id}"

        async def charge() -> str:
            if self.is_broke:
                raise NonRetryableError("no \x1b[31mmoney")
            return "paid"

        @self.worker.function("talk", on=lambda event: event.id.startswith("talk"))
        async def talk(event: Order, ctx: Context) -> None:
            async def say(count: int) -> None:
                for n in range(count):
                    ctx.log.warning("line %d:\n\x1b[31mred", n)

            ctx.log.info("begins")
            await ctx.execute("say", say, int(event.id.removeprefix("talk-")))

        @self.worker.function("pay", on=lambda event: event.id.startswith("pay"), retry=Retry(max_attempts=1))
        async def pay(event: Order, ctx: Context) -> str:
            async def both() -> str:
                await ctx.execute("look-up", look_up, event.id)
                return await ctx.execute("charge", charge)

            return await ctx.execute("payment", both, retry=Retry(max_attempts=1))

        @self.worker.function("remind", on=lambda event: event.id.startswith("remind"))
        async def remind(event: Order, ctx: Context) -> None:
            await ctx.sleep("cool-down", "3d")

        @self.worker.function("parent", on=lambda event: event.id == "parent")
        async def parent(event: Order, ctx: Context) -> None:
            await ctx.invoke("child", remind, Order(id="child"))

        self.mount = self.dispatcher.mount(self.worker)

    def publish(self, order_id: str, function_id: str) -> str:
        """Publish an order and return the id of its run, once it has come to rest."""
        return self.runner.run(self._published(order_id, function_id))

    def deliver(self, body: bytes) -> None:
        """Deliver a message as QStash would."""
        request = HttpRequest("POST", "/", [("Upstash-Message-Id", "msg_1")], body)
        assert self.runner.run(self.mount.handle(request)).status == 200

    async def _published(self, order_id: str, function_id: str) -> str:
        published: Published = await self.worker.publish(Order(id=order_id))
        run_id = published.run_id(function_id)
        statuses = ("completed", "failed", "waiting")
        while (run := await self.worker.runs.get(run_id)) is None or run.status not in statuses:
            await self.worker.clock.sleep(0.01)
        return run_id

    def close(self) -> None:
        self.runner.run(self.worker.close())
        self.runner.close()


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(tmp_path / "runs.db")
    yield shop
    shop.close()


def cli(shop: Shop, command: str, *arguments: str, **options: Any) -> Result:
    result = CliRunner().invoke(main, ["runs", command, "--store", shop.url, *arguments], **options)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


# ---- looking


def test_list_names_runs_the_newest_first_and_narrows_them(shop: Shop) -> None:
    paid = shop.publish("pay-1", "pay")
    reminded = shop.publish("remind-1", "remind")
    everything = [line.split("\t") for line in cli(shop, "list").stdout.splitlines()]
    assert [line[:3] for line in everything] == [[reminded, "remind", "waiting"], [paid, "pay", "failed"]]
    assert everything[1][5] == "StepFailed: step 'payment' failed: StepFailed: step 'payment/charge' failed:" + (
        " NonRetryableError: no \\x1b[31mmoney"
    )
    for narrowed in (["--status", "failed"], ["--function", "pay"], ["--status", "failed", "--function", "pay"]):
        assert [run["id"] for run in json.loads(cli(shop, "list", "--json", *narrowed).stdout)] == [paid]
    assert [run["id"] for run in json.loads(cli(shop, "list", "--json", "--limit", "1").stdout)] == [reminded]
    assert cli(shop, "list", "--function", "unknown").stdout == ""


def test_the_store_may_come_from_the_environment(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = shop.publish("remind-1", "remind")
    monkeypatch.setenv("IDIOTEQUE_STORE", shop.url)
    result = CliRunner().invoke(main, ["runs", "list"])
    assert result.stdout.split("\t")[0] == run_id


def test_show_draws_the_steps_as_a_tree(shop: Shop) -> None:
    run_id = shop.publish("pay-1", "pay")
    shown = cli(shop, "show", run_id).stdout
    assert shown.startswith(f"{run_id}  failed\nfunction  pay\n")
    assert ' {"type": "order", "id": "pay-1"}\n' in shown
    assert shown[shown.index("steps ") :].splitlines() == [
        "steps     3",
        "└── payment  failed: StepFailed: step 'payment/charge' failed: NonRetryableError: no \\x1b[31mmoney",
        "    ├── look-up  completed",
        "    └── charge  failed: NonRetryableError: no \\x1b[31mmoney",
    ]
    assert "\x1b" not in shown


def test_show_as_json_has_everything(shop: Shop) -> None:
    shop.is_broke = False
    run_id = shop.publish("pay-1", "pay")
    shown = json.loads(cli(shop, "show", run_id, "--json").stdout)
    assert (shown["id"], shown["status"], shown["result"], shown["error"]) == (run_id, "completed", "paid", None)
    assert shown["event"] == {"type": "order", "id": "pay-1"}
    assert [(step["key"], step["status"], step["result"]) for step in shown["steps"]] == [
        ("payment/look-up", "completed", "card of pay-1"),
        ("payment/charge", "completed", "paid"),
        ("payment", "completed", "paid"),
    ]
    assert shown["finished_at"].endswith("Z")


def test_why_says_what_a_run_waits_for(shop: Shop) -> None:
    waiting = shop.publish("remind-1", "remind")
    assert cli(shop, "why", waiting).stdout.startswith("sleeping: in 'cool-down' (until ")
    reason = json.loads(cli(shop, "why", waiting, "--json").stdout)
    assert (reason["status"], reason["cause"]) == ("waiting", "sleeping")
    assert "sleeping: in 'cool-down'" in cli(shop, "show", waiting).stdout
    failed = shop.publish("pay-1", "pay")
    assert cli(shop, "why", failed).stdout == "it has ended: failed\n"
    assert json.loads(cli(shop, "why", failed, "--json").stdout)["cause"] is None


def test_logs_prints_what_a_run_wrote(shop: Shop) -> None:
    run_id = shop.publish("talk-2", "talk")
    lines = [line.split("\t") for line in cli(shop, "logs", run_id).stdout.splitlines()]
    assert [line[1:] for line in lines] == [
        ["INFO", "", "1", "begins"],
        ["WARNING", "say", "1", "line 0:\\n\\x1b[31mred"],
        ["WARNING", "say", "1", "line 1:\\n\\x1b[31mred"],
    ]
    told = json.loads(cli(shop, "logs", run_id, "--json").stdout)
    assert told["cut"] == 0
    assert [line["at"] for line in told["lines"]] == [line[0] for line in lines]
    assert (told["lines"][1]["key"], told["lines"][1]["text"]) == ("say", "line 0:\n\x1b[31mred")
    silent = shop.publish("remind-1", "remind")
    assert cli(shop, "logs", silent).stdout == ""
    assert json.loads(cli(shop, "logs", silent, "--json").stdout) == {"lines": [], "cut": 0}


def test_logs_says_how_many_lines_are_not_kept(shop: Shop) -> None:
    run_id = shop.publish("talk-210", "talk")
    told = cli(shop, "logs", run_id)
    assert (len(told.stdout.splitlines()), told.stderr) == (200, "11 lines before these are not kept\n")


@pytest.mark.parametrize("command", ["show", "why", "logs"])
def test_an_unknown_run_is_an_error(shop: Shop, command: str) -> None:
    shop.publish("remind-1", "remind")
    result = cli(shop, command, "run_unknown")
    assert (result.exit_code, result.stderr) == (1, "Error: no run 'run_unknown' is stored\n")
    assert cli(shop, command, "no/id").exit_code == 2


# ---- cancelling


def test_cancel_ends_the_runs_named_and_says_which_had_ended(shop: Shop) -> None:
    waiting, failed = shop.publish("remind-1", "remind"), shop.publish("pay-1", "pay")
    result = cli(shop, "cancel", waiting, failed, "run_unknown")
    assert (result.exit_code, result.stdout) == (1, "cancelled 1 of 3\n")
    assert f"{failed}: it is failed\n" in result.stderr
    assert "run_unknown: no run 'run_unknown' is stored\n" in result.stderr
    assert json.loads(cli(shop, "show", waiting, "--json").stdout)["status"] == "cancelled"


def test_cancelling_all_asks_first(shop: Shop) -> None:
    ids = {shop.publish(f"remind-{n}", "remind") for n in range(3)}
    shop.publish("pay-1", "pay")
    refused = cli(shop, "cancel", "--all", input="n\n")
    assert refused.exit_code == 1
    assert "cancel 3 runs?" in refused.output
    assert len(json.loads(cli(shop, "list", "--json", "--status", "waiting").stdout)) == 3
    assert cli(shop, "cancel", "--all", "--function", "pay").stdout == "cancelled 0 of 0\n"
    assert cli(shop, "cancel", "--all", "--yes").stdout == "cancelled 3 of 3\n"
    assert {run["id"] for run in json.loads(cli(shop, "list", "--json", "--status", "cancelled").stdout)} == ids


def test_cancelling_an_invoked_run_needs_the_mount(shop: Shop, run: Run, qstash: FakeQStash) -> None:
    parent = shop.publish("parent", "parent")
    [child] = [each for each in json.loads(cli(shop, "list", "--json").stdout) if each["id"] != parent]
    result = cli(shop, "cancel", child["id"])
    assert (result.exit_code, result.stdout) == (1, "cancelled 0 of 1\n")
    assert "--mount-url" in result.stderr
    qstash.respond = lambda _: (200, {"messageId": "msg_1"})
    again = run("runs", "cancel", "--store", shop.url, "--mount-url", MOUNT_URL, child["id"])
    assert (again.exit_code, again.stdout) == (0, "cancelled 1 of 1\n")
    assert qstash.asked[0].target == f"/v2/publish/{MOUNT_URL}"


# ---- retrying


def test_retry_sends_a_message_by_which_the_run_goes_on_from_where_it_stopped(
    shop: Shop, run: Run, qstash: FakeQStash
) -> None:
    run_id = shop.publish("pay-1", "pay")
    qstash.respond = lambda _: (200, {"messageId": "msg_1"})
    result = run("runs", "retry", "--store", shop.url, "--mount-url", MOUNT_URL, run_id)
    assert (result.exit_code, result.stdout) == (0, "retried 1 of 1\n")
    [asked] = qstash.asked
    assert (asked.method, asked.target) == ("POST", f"/v2/publish/{MOUNT_URL}")
    shop.is_broke = False
    shop.deliver(asked.body)
    shown = json.loads(cli(shop, "show", run_id, "--json").stdout)
    assert (shown["status"], shown["result"], shop.charges) == ("completed", "paid", 1)


def test_retrying_all_takes_those_that_failed_and_asks_first(shop: Shop, run: Run, qstash: FakeQStash) -> None:
    for n in range(3):
        shop.publish(f"pay-{n}", "pay")
    shop.publish("remind-1", "remind")
    qstash.respond = lambda _: (200, {"messageId": "msg_1"})
    options = ("--store", shop.url, "--mount-url", MOUNT_URL, "--all")
    assert "retry 3 runs?" in run("runs", "retry", *options, stdin=b"n\n").output
    assert qstash.asked == []
    assert run("runs", "retry", *options, "--yes").stdout == "retried 3 of 3\n"
    assert len(qstash.asked) == 3


def test_a_completed_run_cannot_be_retried(shop: Shop, run: Run, qstash: FakeQStash) -> None:
    shop.is_broke = False
    run_id = shop.publish("pay-1", "pay")
    result = run("runs", "retry", "--store", shop.url, "--mount-url", MOUNT_URL, run_id)
    assert (result.exit_code, result.stdout) == (1, "retried 0 of 1\n")
    assert f"{run_id}: run {run_id} is completed; there is nothing to retry" in result.stderr
    assert qstash.asked == []


def test_retrying_changes_nothing_when_no_message_can_be_sent(shop: Shop) -> None:
    run_id = shop.publish("pay-1", "pay")
    without_mount = cli(shop, "retry", run_id)
    assert without_mount.exit_code == 2
    assert "--mount-url" in without_mount.stderr
    without_token = cli(shop, "retry", "--mount-url", MOUNT_URL, run_id)
    assert without_token.exit_code == 2
    assert "QSTASH_TOKEN is not set" in without_token.stderr
    assert json.loads(cli(shop, "show", run_id, "--json").stdout)["status"] == "failed"


# ---- resuming, counting, and what was tried


def test_resume_starts_a_run_that_keeps_what_had_ended_before_the_step(
    shop: Shop, run: Run, qstash: FakeQStash
) -> None:
    run_id = shop.publish("pay-1", "pay")
    qstash.respond = lambda _: (200, {"messageId": "msg_1"})
    place = ("--store", shop.url, "--mount-url", MOUNT_URL)
    resumed = run("runs", "resume", *place, run_id, "payment/charge")
    assert resumed.exit_code == 0, resumed.stderr
    shop.is_broke = False
    shop.deliver(qstash.asked[0].body)
    shown = json.loads(cli(shop, "show", resumed.stdout.strip(), "--json").stdout)
    assert (shown["status"], shown["result"], shop.charges) == ("completed", "paid", 1)
    assert json.loads(cli(shop, "show", run_id, "--json").stdout)["status"] == "failed"
    unknown = run("runs", "resume", *place, run_id, "refund")
    assert (unknown.exit_code, "has no step 'refund'" in unknown.stderr) == (2, True)
    assert cli(shop, "resume", run_id, "payment").exit_code == 2, "no message could be sent"


def test_runs_are_counted_by_status(shop: Shop) -> None:
    for n in range(3):
        shop.publish(f"pay-{n}", "pay")
    shop.publish("remind-1", "remind")
    counted = {row["status"]: row["count"] for row in json.loads(cli(shop, "count", "--json").stdout)}
    assert counted == {"running": 0, "waiting": 1, "completed": 0, "failed": 3, "cancelled": 0}
    assert "failed\t0" in cli(shop, "count", "--function", "remind").stdout


def test_show_tells_what_was_tried_and_how_many_messages_it_took(shop: Shop, run: Run, qstash: FakeQStash) -> None:
    run_id = shop.publish("pay-1", "pay")
    qstash.respond = lambda _: (200, {"messageId": "msg_1"})
    run("runs", "retry", "--store", shop.url, "--mount-url", MOUNT_URL, run_id)
    shown = json.loads(cli(shop, "show", run_id, "--json").stdout)
    assert shown["messages"] == 1
    tried = {one["key"]: one for one in shown["failed_attempts"]}
    assert tried.keys() == {"payment/charge", "payment", ""}
    assert tried["payment/charge"]["error"] == "NonRetryableError: no \x1b[31mmoney"
    lines = cli(shop, "show", run_id).stdout
    assert "payment/charge, attempt 1 after " in lines
    assert "\x1b" not in lines


# ---- repairing


def test_runs_that_nothing_holds_are_listed_and_woken(shop: Shop, run: Run, qstash: FakeQStash) -> None:
    reminded = shop.publish("remind-1", "remind")
    assert cli(shop, "stalled").stdout == ""
    assert cli(shop, "stalled", "--for", "0s").stdout == "", "it sleeps: a message holds it"
    shop.runner.run(shop.worker.store.trouble(STALLED, Trouble("dead_letter", "503"), NEW_RUN))
    shop.runner.run(shop.worker.clock.sleep(0.01))  # so that now is later
    listed = json.loads(cli(shop, "stalled", "--for", "0s", "--json").stdout)
    assert [each["id"] for each in listed] == [STALLED]
    qstash.respond = lambda _: (200, {"messageId": "msg_1"})
    mended = run(*("runs", "stalled", "--store", shop.url, "--for", "0s", "--repair", "--mount-url", MOUNT_URL))
    assert (mended.exit_code, mended.stdout.split("\t")[0], mended.stderr.splitlines()[-1]) == (0, STALLED, "woke 1")
    [asked] = qstash.asked
    shop.is_broke = False
    shop.deliver(asked.body)
    assert json.loads(cli(shop, "show", STALLED, "--json").stdout)["status"] == "completed"
    assert json.loads(cli(shop, "show", reminded, "--json").stdout)["status"] == "waiting"


# ---- whose runs


def test_an_app_brings_its_own_store_and_mount(
    shop: Shop, run: Run, qstash: FakeQStash, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shop_of_runs.py").write_text(APP)
    (tmp_path / "that_exits.py").write_text("import sys\n\nsys.exit(3)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    run_id = shop.publish("pay-1", "pay")
    qstash.respond = lambda _: (200, {"messageId": "msg_1"})
    assert run("runs", "list", "--app", "shop_of_runs:worker").stdout.startswith(run_id)
    monkeypatch.delitem(sys.modules, "shop_of_runs")  # each command is a process of its own
    assert run("runs", "retry", "--app", "shop_of_runs:worker", run_id).stdout == "retried 1 of 1\n"
    assert qstash.asked[0].target == f"/v2/publish/{MOUNT_URL}"
    for app, said in (
        ("shop_of_runs:number", "is a int, not a Worker"),
        ("shop_of_runs:missing", "cannot be loaded"),
        ("no_such_module:worker", "there is no module 'no_such_module'"),
        ("that_exits:worker", "cannot be loaded: SystemExit: 3"),
        ("shop_of_runs", "write MODULE:WORKER"),
    ):
        result = run("runs", "list", "--app", app)
        assert result.exit_code == 2
        assert said in result.stderr
    assert run("runs", "list", "--app", "shop_of_runs:worker", "--store", shop.url).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["list"], "which store?"),
        (["list", "--store", "memory:"], "seen by nobody"),
        (["list", "--store", "sqlite:///missing.db"], "there is no file 'missing.db'"),
        (["list", "--store", "mysql://localhost"], "names no store"),
        (["list", "--status", "lost"], "'lost' is not one of"),
        (["list", "--limit", "0"], "not in the range"),
        (["cancel"], "name the runs to cancel, or give --all"),
        (["cancel", "run_1", "--all"], "name the runs to cancel, or give --all"),
        (["cancel", "run_1", "--status", "waiting"], "go with --all"),
        (["retry", "run_1"], "--mount-url"),
        (["stalled", "--repair"], "--mount-url"),
        (["stalled", "--for", "soon"], "--for"),
        (["show"], "Missing argument"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["runs", *arguments])
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_place_with_a_mount_sends_over_qstash(tmp_path: Path) -> None:
    (tmp_path / "runs.db").touch()
    place = Place(f"sqlite:///{tmp_path / 'runs.db'}", None, MOUNT_URL)
    assert isinstance(place.worker().dispatcher, QStashDispatcher)
