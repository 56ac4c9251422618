"""The HTTP API against a small reference model: whatever is asked for, in whatever order, both tell the same story.

Hypothesis makes the programs, virtual time passes between their steps, and after each step everything that the API
shows (states, dead letters, deliveries, signatures) is compared with what the model expects.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from idioteque.server.config import ServerConfig
from idioteque.signing import verify
from idioteque.transport import HttpRequest, HttpResponse
from tests.server.house import CURRENT_KEY, NEXT_KEY, House, Reply, open_house

ORIGINS = ["https://a.test", "https://b.test"]
GROUP = ["https://a.test/one", "https://b.test/two"]
CALLBACK = "https://callback.test/"
WINDOW_MS = 600_000
MINUTE_MS = 60_000
CONFIG = ServerConfig(housekeeping_every_s=86_400, lease_s=86_400)  # nothing but what is modelled moves time

origins = st.sampled_from(ORIGINS)
delays = st.sampled_from([0, 0, 0, 1, 30, 90, 3600])
retries = st.sampled_from([2, 1, 3, 0])
labels = st.sampled_from(["red", "green", "blue"])
queues = st.sampled_from(["q1", "q2"])
verbs = st.sampled_from(["PATCH", "POST", "PUT"])
deduplication = st.sampled_from([None, "one", "one", "two"])


@dataclass
class Expected:
    """A message as the model sees it."""

    url: str
    due_ms: int
    retries_max: int
    label: str
    callback: bool = False
    queue: str | None = None
    state: str = "waiting"
    retried: int = 0
    log: list[str] = field(default_factory=lambda: ["CREATED"])

    @property
    def origin(self) -> str:
        return self.url[: len(ORIGINS[0])]


class Model:
    """What a server has to do, in the plainest way."""

    RETRY_MS = 40_000

    def __init__(self, now_ms: int) -> None:
        self.now_ms = now_ms
        self.messages: dict[str, Expected] = {}
        self.answers = dict(zip(ORIGINS, (200, 500), strict=True))
        self.deduplicated: dict[str, tuple[str, int]] = {}
        self.callbacks = 0
        self.paused: set[str] = set()

    def advance(self, ms: int) -> None:
        """Make every attempt that is due until then, in the order of time."""
        end_ms = self.now_ms + ms
        while due := [each for each in self.eligible() if each.due_ms <= end_ms]:
            message = min(due, key=lambda each: each.due_ms)
            self.now_ms = max(self.now_ms, message.due_ms)
            self._attempt(message)
        self.now_ms = end_ms

    def eligible(self) -> list[Expected]:
        """Return the messages whose turn it is: of each queue that is not paused, the first that has not ended."""
        waiting = [each for each in self.messages.values() if each.state == "waiting"]
        firsts: dict[str, Expected] = {}
        for each in waiting:
            if each.queue is not None:
                firsts.setdefault(each.queue, each)
        return [
            each
            for each in waiting
            if each.queue is None or (firsts[each.queue] is each and each.queue not in self.paused)
        ]

    def lag(self, queue: str) -> int:
        return sum(each.queue == queue and each.state == "waiting" for each in self.messages.values())

    def cancel(self, message_id: str) -> bool:
        message = self.messages.get(message_id)
        if message is None or message.state != "waiting":
            return False
        message.state = "cancelled"
        message.log += ["CANCEL_REQUESTED", "CANCELED"]
        return True

    def attempts(self) -> Counter[str]:
        return Counter({key: each.log.count("ACTIVE") for key, each in self.messages.items() if "ACTIVE" in each.log})

    def _attempt(self, message: Expected) -> None:
        status = self.answers[message.origin]
        message.log.append("ACTIVE")
        self.callbacks += message.callback
        if status == 200:
            message.state = "delivered"
            message.log.append("DELIVERED")
        elif status == 489 or message.retried == message.retries_max:
            message.state = "dead"
            message.log += ["ERROR", "FAILED"]
        else:
            message.retried += 1
            message.due_ms = self.now_ms + self.RETRY_MS
            message.log += ["ERROR", "RETRY"]


class ServerAgainstModel(RuleBasedStateMachine):
    """Each rule asks the server and the model for the same thing.

    Messages are chosen by the order in which they came: their ids are random, and a choice is repeated by its number.
    """

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.numbers = itertools.count()
        self.house: House = self.run(self.stack.enter_async_context(open_house(self.answer, config=CONFIG)))
        self.model = Model(self.house.clock.now_ms())
        self.keys = [CURRENT_KEY, NEXT_KEY]
        self.verified = 0
        self.schedules: dict[str, int | None] = {}  # the next tick, None while it is paused
        self.ticks: Counter[str] = Counter()

    def run(self, coroutine: Any) -> Any:
        return self.runner.run(coroutine)

    def teardown(self) -> None:
        self.run(self.stack.aclose())
        self.runner.close()

    def answer(self, request: HttpRequest) -> Any:
        status = self.model.answers.get(request.url[: len(ORIGINS[0])], 200)
        return HttpResponse(status, [("Upstash-NonRetryable-Error", "true")] if status == 489 else [])

    def call(self, method: str, target: str, **options: Any) -> Reply:
        async def called() -> Reply:
            reply = await self.house.call(method, target, **options)
            await self.house.clock.settle()
            return reply

        return self.run(called())

    # ---- publishing

    def expect(self, message_id: str, url: str, **options: Any) -> None:
        assert message_id not in self.model.messages
        options["due_ms"] = self.model.now_ms + options.pop("delay", 0) * 1000
        self.model.messages[message_id] = Expected(url, **options)
        self.model.advance(0)

    def headers(self, *, delay: int, retries_max: int, label: str, callback: bool = False) -> dict[str, str]:
        headers = {"Upstash-Retries": str(retries_max), "Upstash-Label": label, "Upstash-Retry-Delay": "40000"}
        if delay:
            headers["Upstash-Delay"] = f"{delay}s"
        if callback:
            headers["Upstash-Callback"] = CALLBACK
        return headers

    @initialize()
    def make_a_group(self) -> None:
        endpoints = [{"url": url} for url in GROUP]
        assert self.call("POST", "/v2/topics/group/endpoints", document={"endpoints": endpoints}).status == 200

    @rule(origin=origins, delay=delays, retries_max=retries, label=labels, callback=st.booleans(), key=deduplication)
    def publish(self, origin: str, delay: int, retries_max: int, label: str, callback: bool, key: str | None) -> None:
        options = {"delay": delay, "retries_max": retries_max, "label": label, "callback": callback}
        headers = self.headers(**options)
        earlier = None
        if key is not None:
            headers["Upstash-Deduplication-Id"] = key
            earlier, until_ms = self.model.deduplicated.get(key, ("", 0))
            earlier = earlier if until_ms > self.model.now_ms else None
        url = f"{origin}/{next(self.numbers)}"
        reply = self.call("POST", f"/v2/publish/{url}", headers=headers)
        if earlier is not None:
            assert (reply.status, reply.json["messageId"], reply.json["deduplicated"]) == (202, earlier, True)
            return
        assert (reply.status, reply.json["url"]) == (200, url)
        if key is not None:
            self.model.deduplicated[key] = (reply.json["messageId"], self.model.now_ms + WINDOW_MS)
        self.expect(reply.json["messageId"], url, **options)

    @rule(delay=delays, retries_max=retries, label=labels)
    def publish_to_the_group(self, delay: int, retries_max: int, label: str) -> None:
        options = {"delay": delay, "retries_max": retries_max, "label": label}
        replies = self.call("POST", "/v2/publish/group", headers=self.headers(**options)).json
        assert [reply["url"] for reply in replies] == GROUP
        for reply in replies:
            self.expect(reply["messageId"], reply["url"], **options)

    @rule(queue=queues, origin=origins, delay=delays, retries_max=retries, label=labels)
    def enqueue(self, queue: str, origin: str, delay: int, retries_max: int, label: str) -> None:
        options = {"delay": delay, "retries_max": retries_max, "label": label}
        url = f"{origin}/{next(self.numbers)}"
        reply = self.call("POST", f"/v2/enqueue/{queue}/{url}", headers=self.headers(**options))
        assert (reply.status, reply.json["url"]) == (200, url)
        self.expect(reply.json["messageId"], url, queue=queue, **options)

    @rule(items=st.lists(st.tuples(origins, delays, labels, st.none() | queues, st.booleans()), max_size=4))
    def batch(self, items: list[tuple[str, int, str, str | None, bool]]) -> None:
        document, expected = [], []
        for origin, delay, label, queue, is_good in items:
            options: dict[str, Any] = {"delay": delay, "retries_max": 1, "label": label}
            url = f"{origin}/{next(self.numbers)}"
            headers = self.headers(**options)
            document.append({"destination": url if is_good else "nowhere", "headers": headers, "queue": queue})
            expected.append((url, {**options, "queue": queue}, is_good))
        reply = self.call("POST", "/v2/batch", document=document)
        assert (reply.status, len(reply.json)) == (200, len(items))
        for (url, options, is_good), result in zip(expected, reply.json, strict=True):
            assert ("error" in result) is not is_good
            if is_good:
                self.expect(result["messageId"], url, **options)

    @rule(address=st.sampled_from(["ftp://x.test", "http://127.0.0.1/", "nowhere", "https://"]))
    def publish_nonsense(self, address: str) -> None:
        assert self.call("POST", f"/v2/publish/{address}").status == 400

    # ---- queues

    @rule(queue=queues, is_paused=st.booleans(), by_upsert=st.booleans())
    def pause_or_resume_a_queue(self, queue: str, is_paused: bool, by_upsert: bool) -> None:
        known = self.call("GET", f"/v2/queues/{queue}").status == 200
        if by_upsert:
            document = {"queueName": queue, "parallelism": 1, "paused": is_paused}
            assert self.call("POST", "/v2/queues", document=document).status == 200
        else:
            reply = self.call("POST", f"/v2/queues/{queue}/{'pause' if is_paused else 'resume'}")
            assert reply.status == (200 if known else 404)
        if known or by_upsert:
            self.model.paused = self.model.paused | {queue} if is_paused else self.model.paused - {queue}
        self.model.advance(0)

    @rule(queue=queues)
    def look_at_a_queue(self, queue: str) -> None:
        reply = self.call("GET", f"/v2/queues/{queue}")
        if reply.status == 404:
            assert self.model.lag(queue) == 0
        else:
            assert (reply.json["lag"], reply.json["paused"]) == (self.model.lag(queue), queue in self.model.paused)

    @rule(queue=queues)
    def delete_a_queue(self, queue: str) -> None:
        assert self.call("DELETE", f"/v2/queues/{queue}").status == 200
        for key, each in self.model.messages.items():
            if each.queue == queue:
                self.model.cancel(key)
        self.model.paused.discard(queue)

    # ---- the world

    @rule(origin=origins, status=st.sampled_from([200, 500, 500, 489]))
    def change_an_answer(self, origin: str, status: int) -> None:
        self.model.answers[origin] = status

    @rule(seconds=st.sampled_from([1, 39, 40, 40, 41, 90, 599, 601, 3600]))
    def let_time_pass(self, seconds: int) -> None:
        end_ms = self.model.now_ms + seconds * 1000
        self.run(self.house.clock.advance(seconds))
        self.model.advance(seconds * 1000)
        for schedule_id, tick_ms in self.schedules.items():
            while tick_ms is not None and tick_ms <= end_ms:
                self.ticks[schedule_id] += 1
                tick_ms += MINUTE_MS
            self.schedules[schedule_id] = tick_ms

    # ---- cancelling

    @precondition(lambda self: self.model.messages)
    @rule(data=st.data())
    def cancel_one(self, data: st.DataObject) -> None:
        message_id = data.draw(st.sampled_from(list(self.model.messages)))
        reply = self.call("DELETE", f"/v2/messages/{message_id}")
        assert reply.status == (200 if self.model.cancel(message_id) else 404)
        self.model.advance(0)

    @rule(label=labels, in_body=st.booleans())
    def cancel_by_label(self, label: str, in_body: bool) -> None:
        options = {"document": {"label": [label]}} if in_body else {}
        reply = self.call("DELETE", "/v2/messages" + ("" if in_body else f"?label={label}"), **options)
        found = [key for key, each in self.model.messages.items() if each.label == label]
        assert reply.json == {"cancelled": sum([self.model.cancel(key) for key in found])}
        self.model.advance(0)

    @rule()
    def cancel_everything(self) -> None:
        reply = self.call("DELETE", "/v2/messages")
        assert reply.json == {"cancelled": sum([self.model.cancel(key) for key in list(self.model.messages)])}

    @rule(query=st.sampled_from(["labeel=red", "label=", "messageIds=", "all=true"]))
    def cancel_with_a_typing_error(self, query: str) -> None:
        assert self.call("DELETE", f"/v2/messages?{query}").status == 400

    # ---- dead letters

    def letters(self, query: str = "") -> list[Any]:
        return list(self.call("GET", f"/v2/dlq{query}").json["messages"])

    @precondition(lambda self: any(each.state == "dead" for each in self.model.messages.values()))
    @rule(data=st.data(), is_kept=st.booleans())
    def retry_or_delete_a_dead_letter(self, data: st.DataObject, is_kept: bool) -> None:
        dead = [key for key, each in self.model.messages.items() if each.state == "dead"]
        message_id = data.draw(st.sampled_from(dead))
        (letter,) = self.letters(f"?messageId={message_id}")
        old = self.model.messages[message_id]
        old.state = "gone"
        if is_kept:
            reply = self.call("POST", f"/v2/dlq/retry/{letter['dlqId']}")
            assert reply.status == 201
            self.expect(reply.json["messageId"], old.url, retries_max=old.retries_max, label=old.label,
                        callback=old.callback, queue=old.queue)  # fmt: skip
        else:
            assert self.call("DELETE", f"/v2/dlq/{letter['dlqId']}").status == 200
        assert self.call("DELETE", f"/v2/dlq/{letter['dlqId']}").status == 404

    @rule(label=labels)
    def delete_dead_letters_by_label(self, label: str) -> None:
        reply = self.call("DELETE", f"/v2/dlq?label={label}")
        found = [each for each in self.model.messages.values() if each.state == "dead" and each.label == label]
        assert reply.json["deleted"] == len(found)
        for each in found:
            each.state = "gone"

    # ---- schedules and keys

    @precondition(lambda self: len(self.schedules) < 2)
    @rule()
    def schedule(self) -> None:
        target = f"{CALLBACK}scheduled/{next(self.numbers)}"
        reply = self.call("POST", f"/v2/schedules/{target}", headers={"Upstash-Cron": "* * * * *"})
        assert reply.status == 200
        self.schedules[reply.json["scheduleId"]] = self.next_tick_ms()

    def next_tick_ms(self) -> int:
        return (self.model.now_ms // MINUTE_MS + 1) * MINUTE_MS

    @precondition(lambda self: self.schedules)
    @rule(
        data=st.data(), verb=st.sampled_from(["pause", "resume", "delete"]), method=st.sampled_from(["PATCH", "POST"])
    )
    def change_a_schedule(self, data: st.DataObject, verb: str, method: str) -> None:
        schedule_id = data.draw(st.sampled_from(list(self.schedules)))
        if verb == "delete":
            assert self.call("DELETE", f"/v2/schedules/{schedule_id}").status == 200
            del self.schedules[schedule_id]
            return
        assert self.call(method, f"/v2/schedules/{schedule_id}/{verb}").status == 200
        if verb == "pause":
            self.schedules[schedule_id] = None
        elif self.schedules[schedule_id] is None:
            self.schedules[schedule_id] = self.next_tick_ms()

    @rule()
    def rotate_the_keys(self) -> None:
        reply = self.call("POST", "/v2/keys/rotate")
        assert reply.json["current"] == self.keys[1]
        self.keys = [reply.json["current"], reply.json["next"]]

    # ---- what must hold after each of them

    @invariant()
    def both_tell_the_same_story(self) -> None:
        logs: dict[str, list[str]] = {}
        cursor = ""
        while True:
            page = self.call("GET", f"/v2/events?order=earliestFirst&count=500{cursor}").json
            for entry in page["events"]:
                if not entry["url"].startswith(CALLBACK):
                    logs.setdefault(entry["messageId"], []).append(entry["state"])
            if "cursor" not in page:
                break
            cursor = f"&cursor={page['cursor']}"
        assert logs == {message_id: expected.log for message_id, expected in self.model.messages.items()}

    @invariant()
    def every_attempt_was_made_once_and_signed(self) -> None:
        sent = Counter(request.header("Upstash-Message-Id") for request in self.house.wire.requests)
        assert (
            Counter({key: count for key, count in sent.items() if key in self.model.messages}) == self.model.attempts()
        )
        assert len(self.house.wire.sent_to(CALLBACK)) == self.model.callbacks
        fresh = slice(self.verified, None)
        for request, time_ms in zip(self.house.wire.requests[fresh], self.house.wire.times_ms[fresh], strict=True):
            verify(request.header("Upstash-Signature") or "", request.body, self.keys[:1], time_ms, request.url)
        self.verified = len(self.house.wire.requests)

    @invariant()
    def queues_keep_the_order_of_acceptance(self) -> None:
        firsts = list(dict.fromkeys(request.header("Upstash-Message-Id") for request in self.house.wire.requests))
        for queue in ("q1", "q2"):
            begun = [key for key, each in self.model.messages.items() if each.queue == queue and "ACTIVE" in each.log]
            assert [key for key in firsts if key in begun] == begun

    @invariant()
    def dead_letters_are_those_that_nobody_dealt_with(self) -> None:
        dead = {key for key, each in self.model.messages.items() if each.state == "dead"}
        assert {letter["messageId"] for letter in self.letters()} == dead

    @invariant()
    def every_tick_fired_once(self) -> None:
        scheduled = Counter(request.header("Upstash-Schedule-Id") for request in self.house.wire.requests)
        del scheduled[None]
        assert scheduled == self.ticks


ServerAgainstModel.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestServerAgainstModel = ServerAgainstModel.TestCase
