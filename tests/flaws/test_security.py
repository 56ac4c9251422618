"""Flaws 35 to 40: what anybody could do who reached the URL."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

from idioteque import ConfigurationError, DispatchError, HttpResponse, QStashDispatcher
from idioteque.engine import Delivery
from idioteque.errors import InvalidValue
from idioteque.stores.redis import RedisStore
from idioteque.testing import ScriptedTransport
from idioteque.testing.leases import OK, STEP, held
from idioteque.transport import HttpRequest, PooledTransport
from tests.library.engine.rig import Order, Rig
from tests.library.engine.test_runs import event_of
from tests.library.mounts.servers import uvicorn_running
from tests.library.mounts.shop import Shop, headers, order
from tests.library.test_qstash import ACCEPTED, MOUNT, TOKEN, dispatcher
from tests.redis_server import RedisServer

FINISH_S = 30.0
HOSTILE = ("../victim", "session:42", "a/b", "a{b}c", "a b", "x" * 129, "", "é", "a\x00b", "..\\victim")
FLAWS = range(1, 41)


async def posted(shop: Shop, requests: list[tuple[bytes, dict[str, str]]]) -> list[HttpResponse]:
    """Return what the mount answers to requests over real HTTP."""
    transport = PooledTransport()
    try:
        with uvicorn_running(shop.mount) as origin:
            return [
                await transport.send(
                    HttpRequest("POST", f"{origin}/", list(given.items()), body),
                    timeout_s=FINISH_S,
                )
                for body, given in requests
            ]
    finally:
        await transport.close()


async def test_flaw_35_nobody_runs_anything_without_a_signature() -> None:
    shop, without_keys = Shop(), Shop(keys=(None, None))
    forged = headers(order(), key="sig_of_somebody_else_0123456789")
    plain = {"Content-Type": "application/json"}
    answers = await posted(shop, [(order(), plain), (order(), forged), (order(), {**plain, "Upstash-Signature": ""})])
    assert [answer.status for answer in answers] == [401, 401, 401]
    [unset] = await posted(without_keys, [(order(), headers(order()))])
    assert unset.status == 500
    assert (dict(shop.paid), dict(without_keys.paid)) == ({}, {})
    [signed] = await posted(shop, [(order(), headers(order()))])
    assert (signed.status, dict(shop.paid)) == (200, {"1": 1})


def forged_event(event_id: str) -> bytes:
    return order().replace(b'"evt_1"', ascii_json(event_id))


def ascii_json(text: str) -> bytes:
    return json.dumps(text).encode()


async def test_flaw_36_no_id_leads_out_of_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "file").write_text("kept")
    shop = Shop()
    bodies = [forged_event(event_id) for event_id in HOSTILE]
    answers = await posted(shop, [(body, headers(body)) for body in bodies])
    assert {answer.status for answer in answers} == {489}
    assert {answer.header("Upstash-NonRetryable-Error") for answer in answers} == {"true"}
    assert shop.paid == {}
    dots = forged_event("..")
    assert [answer.status for answer in await posted(shop, [(dots, headers(dots))])] == [200], "an id like any other"
    for run_id in HOSTILE:
        with pytest.raises(InvalidValue):
            await shop.worker.runs.cancel(run_id)
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == ["victim", "victim/file"]


async def test_flaw_37_no_id_leads_to_a_foreign_key(redis_server: RedisServer) -> None:
    prefix = redis_server.prefix()
    foreign = f"session:{prefix}"
    redis_server.execute("SET", foreign, "kept")
    store = RedisStore(f"{redis_server.url}?prefix={prefix}")
    for n, run in enumerate((foreign, f"{foreign}}}", "a{b}c")):
        lease = await held(store, f"owner-{n}", run=run)
        await store.watch(lease, STEP, [foreign], b"{}")
        await store.occupy(foreign, run, until_end=True)
        await store.commit(lease, STEP, OK)
        await store.cancel(run)
    await store.arrive(foreign, foreign, b"{}")
    await store.close()
    keys = [key.decode() for key in redis_server.execute("KEYS", f"*{prefix}*")]  # type: ignore[attr-defined]
    assert [key for key in keys if not key.startswith(f"{prefix}:")] == [foreign]
    assert redis_server.execute("GET", foreign) == b"kept"


async def test_flaw_38_the_event_of_a_run_is_the_stored_one_whatever_a_message_says(rig: Rig) -> None:
    seen: set[str] = set()

    @rig.worker.function("f", on="order")
    async def f(event, ctx):  # type: ignore[no-untyped-def]
        seen.add(event.id)
        await ctx.sleep("hour", "1h")
        return await ctx.execute("charge", rig.effect, event.id)

    engine = rig.mount().engine
    assert (await engine.deliver(event_of(Order(id="true")), Delivery("msg-1"))).ok
    await engine.deliver(event_of(Order(id="forged")), Delivery("msg-2"))
    await rig.finish()
    assert seen == {"true"}
    assert rig.effects == {"true": 1}


async def test_flaw_39_what_is_too_large_or_not_understood_is_refused_for_good() -> None:
    shop = Shop(body_bytes_max=1000)
    deep = (
        b'{"idioteque":1,"kind":"run","event_id":"evt_1","function_id":"pay","not_after_ms":9007199254740000,"path":['
    )
    deep += b",".join(b'"a"' for _ in range(33)) + b"]}"
    bodies = [order(note="x" * 1000), b'{"type":"order","id":5}', b'{"type":"unknown"}', b"[" * 900, deep]
    answers = await posted(shop, [(body, headers(body)) for body in bodies])
    assert [answer.status for answer in answers] == [413, 489, 489, 489, 489]
    assert {answer.header("Upstash-NonRetryable-Error") for answer in answers} == {"true"}
    assert shop.paid == {}


async def test_flaw_40_a_url_goes_out_whole_and_no_secret_comes_back() -> None:
    wire = ScriptedTransport([ACCEPTED])
    await dispatcher(wire).dispatch({})
    assert wire.requests[0].url.endswith(f"/v2/publish/{MOUNT}"), "its query is a part of it"
    with pytest.raises(ConfigurationError):
        QStashDispatcher(mount_url="https://app.example.com/#part", token=TOKEN)
    echo = HttpResponse(400, body=f"no: Authorization: Bearer {TOKEN} {'x' * 5000}".encode())
    with pytest.raises(DispatchError) as refused:
        await dispatcher(ScriptedTransport([echo])).dispatch({})
    assert TOKEN not in str(refused.value)
    assert TOKEN not in refused.value.body
    assert len(str(refused.value)) < 1000


def test_every_flaw_has_its_test() -> None:
    sources = [path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py")]
    names = [node.name for source in sources for node in ast.walk(ast.parse(source)) if hasattr(node, "name")]
    numbers = [int(found[1]) for name in names if name and (found := re.match(r"test_flaw_(\d\d)_\w+$", name))]
    assert sorted(numbers) == list(FLAWS)
