// What users of the JavaScript SDK do. `covers` names the methods that a case calls; the table is made from it.

import assert from "node:assert/strict";

async function refused(status, promise) {
  await assert.rejects(promise, (error) => error.status === status && JSON.parse(error.message).error.length > 0);
}

export async function js_publishes_and_the_receiver_verifies({ client, origin, arrived }) {
  const url = `${origin}/hook?a=b%20c`;
  const reply = await client.publish({ url, body: "text", headers: { "X-Test": "hi", "Content-Type": "text/plain" }, method: "PUT" });
  assert.equal(reply.url, url);
  const request = await arrived(reply.messageId);
  assert.deepEqual([request.method, request.url, request.body], ["PUT", url, "text"]);
  assert.deepEqual([request.headers["x-test"], request.headers["content-type"]], ["hi", "text/plain"]);
  const json = await client.publishJSON({ url: `${origin}/json`, body: { "ünï": [1, 2] } });
  const second = await arrived(json.messageId);
  assert.deepEqual(JSON.parse(second.body), { "ünï": [1, 2] });
  assert.equal(second.headers["content-type"], "application/json");
  assert.equal(Object.keys(second.headers).some((name) => name.includes("telemetry")), false);
}
js_publishes_and_the_receiver_verifies.covers = ["client.publish", "client.publishJSON", "Receiver.verify"];

export async function js_reads_and_cancels_a_message({ client, origin }) {
  const { messageId } = await client.publishJSON({
    url: "https://example.com",
    body: { hello: "world" },
    headers: { "test-header": "test-value", "Upstash-Forward-bypass-tunnel-reminder": "client-test" },
    delay: 60,
    retries: 5,
    retryDelay: "1000 * (1 + retried)",
    callback: "https://example.com?foo=bar",
    failureCallback: "https://example.com?bar=baz",
    label: ["one", "two"],
    timeout: "20s",
    method: "GET",
  });
  const message = await client.messages.get(messageId);
  assert.deepEqual(message.header, {
    "Bypass-Tunnel-Reminder": ["client-test"], "Content-Type": ["application/json"], "Test-Header": ["test-value"],
  });
  assert.deepEqual([message.url, message.method, message.body], ["https://example.com", "GET", '{"hello":"world"}']);
  assert.deepEqual([message.maxRetries, message.notBefore - message.createdAt], [5, 60_000]);
  assert.deepEqual([message.callback, message.failureCallback], ["https://example.com?foo=bar", "https://example.com?bar=baz"]);
  assert.deepEqual([message.label, message.labels, message.retryDelayExpression], ["one", ["one", "two"], "1000 * (1 + retried)"]);
  assert.deepEqual(await client.messages.cancel(messageId), { cancelled: 1 });
  await refused(404, client.messages.get(messageId));
  await refused(404, client.messages.cancel(messageId));
  const other = await client.publish({ url: origin, delay: 60 });
  await client.messages.delete(other.messageId);
  await refused(404, client.messages.get(other.messageId));
}
js_reads_and_cancels_a_message.covers = ["client.publishJSON", "messages.get", "messages.cancel", "messages.delete"];

export async function js_cancels_many({ client, origin }) {
  const publish = async (label) => (await client.publish({ url: `${origin}/later`, delay: 600, label })).messageId;
  const ids = [];
  for (const label of ["a", "a", "b", "c", "d", "e"]) ids.push(await publish(label));
  assert.deepEqual(await client.messages.cancel(ids.slice(0, 2)), { cancelled: 2 });
  assert.deepEqual(await client.messages.cancel({ filter: { label: "nothing-has-it" } }), { cancelled: 0 });
  assert.deepEqual(await client.messages.cancel({ filter: { label: ["a", "b"], url: `${origin}/later` } }), { cancelled: 1 });
  assert.equal(await client.messages.deleteMany([ids[3], "msg_unknown"]), 1);
  assert.deepEqual(await client.messages.cancel({ all: true }), { cancelled: 2 });
  await publish("f");
  assert.equal(await client.messages.deleteAll(), 1);
}
js_cancels_many.covers = ["messages.cancel", "messages.deleteMany", "messages.deleteAll"];

export async function js_batches({ client, origin, arrived }) {
  const [first, second] = await client.batch([
    { url: `${origin}/b?n=1`, body: "one", headers: { "X-Test": "1" } },
    { url: `${origin}/b?n=2`, method: "PUT", retries: 0, delay: 1 },
  ]);
  assert.deepEqual([(await arrived(first.messageId)).body, (await arrived(first.messageId)).headers["x-test"]], ["one", "1"]);
  assert.equal((await arrived(second.messageId)).method, "PUT");
  const [third, fourth] = await client.batchJSON([
    { url: `${origin}/b`, body: { x: 1 }, deduplicationId: "js-batch" },
    { url: `${origin}/b`, body: { x: 2 }, deduplicationId: "js-batch" },
  ]);
  assert.deepEqual(JSON.parse((await arrived(third.messageId)).body), { x: 1 });
  assert.deepEqual([fourth.messageId, fourth.deduplicated], [third.messageId, true]);
}
js_batches.covers = ["client.batch", "client.batchJSON"];

export async function js_redacts({ client, origin, arrived }) {
  const { messageId } = await client.publish({
    url: `${origin}/redact`, body: "secret", headers: { "X-Secret": "hidden" }, redact: { body: true, header: true },
  });
  assert.equal((await arrived(messageId)).body, "secret");
  const message = await client.messages.get(messageId);
  assert.match(message.body, /^REDACTED:[0-9a-f]{64}$/);
  assert.match(message.header["X-Secret"][0], /^REDACTED:[0-9a-f]{64}$/);
}
js_redacts.covers = ["client.publish", "messages.get"];

export async function js_deals_with_dead_letters({ client, origin, eventually }) {
  const publish = async (label) => (await client.publish({ url: `${origin}/500`, retries: 0, label })).messageId;
  const ids = [];
  for (const label of ["x", "x", "y", "z", "z", "z"]) ids.push(await publish(label));
  const { messages } = await eventually(async () => {
    const page = await client.dlq.listMessages();
    return page.messages.length === 6 && page;
  });
  const byId = Object.fromEntries(messages.map((each) => [each.messageId, each]));
  const [first, second] = ids.map((id) => byId[id].dlqId);
  assert.deepEqual([byId[ids[0]].responseStatus, byId[ids[0]].responseBody], [500, "said"]);
  assert.deepEqual(byId[ids[0]].responseHeader["X-Answer"], ["yes"]);
  const page = await client.dlq.listMessages({ count: 4 });
  const rest = await client.dlq.listMessages({ count: 4, cursor: page.cursor });
  assert.deepEqual([page.messages.length, rest.messages.length, rest.cursor], [4, 2, undefined]);
  assert.equal((await client.dlq.listMessages({ dlqIds: [first, second] })).messages.length, 2);
  assert.equal((await client.dlq.listMessages({ filter: { label: "y", responseStatus: 500 } })).messages.length, 1);
  await client.dlq.delete(first);
  await refused(404, client.dlq.delete(first));
  assert.equal((await client.dlq.delete([second, first])).deleted, 1);
  assert.equal((await client.dlq.deleteMany({ dlqIds: [byId[ids[2]].dlqId] })).deleted, 1);
  const one = await client.dlq.retry(byId[ids[3]].dlqId);
  assert.equal(one.responses.length, 1);
  assert.deepEqual(await client.dlq.retry({ filter: { label: "nothing-has-it" } }), { cursor: undefined, responses: [] });
  await refused(400, client.dlq.delete({ filter: { labeel: "x" } }));
  // The retried one fails again, as a new letter.
  await eventually(async () => (await client.dlq.listMessages()).messages.some((each) => each.messageId === one.responses[0].messageId));
  const all = await client.dlq.retry({ all: true, count: 100 });
  assert.deepEqual([all.responses.length, all.cursor], [3, undefined]);
  await eventually(async () => (await client.dlq.listMessages()).messages.length === 3);
  let deleted = 0;
  let cursor;
  do {
    const bite = await client.dlq.delete({ all: true, count: 2, cursor });
    deleted += bite.deleted;
    cursor = bite.cursor;
  } while (cursor);
  assert.equal(deleted, 3);
}
js_deals_with_dead_letters.covers = ["dlq.listMessages", "dlq.delete", "dlq.deleteMany", "dlq.retry"];

export async function js_reads_the_log({ client, origin, eventually }) {
  const { messageId } = await client.publish({ url: `${origin}/log`, body: "b", label: "logged", retryDelay: "5000" });
  const { logs } = await eventually(async () => {
    const page = await client.logs({ filter: { messageId } });
    return page.logs.length === 3 && page;
  });
  assert.deepEqual(logs.map((each) => each.state), ["DELIVERED", "ACTIVE", "CREATED"]);
  assert.deepEqual([logs[0].url, logs[0].label], [`${origin}/log`, "logged"]);
  const { events } = await client.events({ filter: { messageId, state: "DELIVERED" } });
  assert.equal(events.length, 1);
  const page = await client.logs({ filter: { messageId }, count: 2 });
  const rest = await client.logs({ filter: { messageId }, count: 2, cursor: page.cursor });
  assert.deepEqual([page.logs.length, rest.logs.length, rest.cursor], [2, 1, undefined]);
  assert.equal((await client.logs({ filter: { label: "logged", fromDate: Date.now() + 60_000 } })).logs.length, 0);
}
js_reads_the_log.covers = ["client.logs", "client.events"];

export async function js_publishes_to_a_url_group({ client, origin, arrived }) {
  const name = "js-group.1";
  const endpoints = [{ name: "one", url: `${origin}/one` }, { url: `${origin}/two` }];
  await client.urlGroups.addEndpoints({ name, endpoints });
  const group = await client.urlGroups.get(name);
  assert.deepEqual([group.name, group.endpoints], [name, endpoints]);
  assert.ok((await client.topics.list()).some((each) => each.name === name));
  const replies = await client.publishJSON({ urlGroup: name, body: { x: 1 } });
  assert.deepEqual(replies.map((each) => each.url), endpoints.map((each) => each.url));
  for (const reply of replies) assert.equal((await arrived(reply.messageId)).headers["upstash-topic-name"], name);
  assert.equal((await client.messages.get(replies[0].messageId)).urlGroup, name);
  await client.urlGroups.removeEndpoints({ name, endpoints: [{ name: "one" }] });
  assert.equal((await client.urlGroups.get(name)).endpoints.length, 1);
  await client.urlGroups.delete(name);
  await refused(404, client.urlGroups.get(name));
}
js_publishes_to_a_url_group.covers = ["urlGroups.addEndpoints", "urlGroups.get", "urlGroups.list", "urlGroups.removeEndpoints", "urlGroups.delete"];

export async function js_keeps_a_queue({ client, origin, arrived, received }) {
  const queue = client.queue({ queueName: "js-queue.1" });
  await queue.upsert({ parallelism: 1, paused: true });
  const ids = [];
  for (let n = 0; n < 4; n++) ids.push((await queue.enqueueJSON({ url: `${origin}/q`, body: { n } })).messageId);
  ids.push((await queue.enqueue({ url: `${origin}/q`, body: "last" })).messageId);
  const [batched] = await client.batch([{ url: `${origin}/q`, body: "batched", queueName: "js-queue.1" }]);
  ids.push(batched.messageId);
  const shown = await queue.get();
  assert.deepEqual([shown.name, shown.parallelism, shown.lag, shown.paused], ["js-queue.1", 1, 6, true]);
  assert.ok((await client.queue().list()).some((each) => each.name === "js-queue.1"));
  await queue.resume();
  await arrived(ids.at(-1));
  assert.deepEqual(received.map((each) => each.headers["upstash-message-id"]).filter((id) => ids.includes(id)), ids);
  await queue.pause();
  assert.equal((await queue.get()).paused, true);
  await queue.delete();
  await refused(404, queue.get());
}
js_keeps_a_queue.covers = ["queue.upsert", "queue.get", "queue.list", "queue.enqueue", "queue.enqueueJSON", "queue.pause", "queue.resume", "queue.delete"];

export async function js_keeps_a_schedule({ client }) {
  const scheduleId = "js-schedule.1";
  const made = await client.schedules.create({
    scheduleId,
    destination: "https://www.initial.com",
    cron: "*/10 * * * *",
    body: JSON.stringify({ hello: "world" }),
    headers: { "Content-Type": "application/json", "test-header": "test-value", "Upstash-Forward-bypass-tunnel-reminder": "client-test" },
    method: "GET",
    retries: 5,
    delay: 10,
    callback: "https://example.com?foo=bar",
    failureCallback: "https://example.com?bar=baz",
    queueName: "js-schedule-queue",
    label: "scheduled",
  });
  assert.equal(made.scheduleId, scheduleId);
  const shown = await client.schedules.get(scheduleId);
  assert.deepEqual(shown.header, {
    "Bypass-Tunnel-Reminder": ["client-test"], "Content-Type": ["application/json"], "Test-Header": ["test-value"],
  });
  assert.deepEqual(
    [shown.destination, shown.cron, shown.method, shown.body, shown.retries, shown.delay, shown.queueName, shown.isPaused],
    ["https://www.initial.com", "*/10 * * * *", "GET", '{"hello":"world"}', 5, 10, "js-schedule-queue", false],
  );
  await client.schedules.pause({ schedule: scheduleId });
  assert.equal((await client.schedules.get(scheduleId)).isPaused, true);
  await client.schedules.resume({ schedule: scheduleId });
  // An existing id is overwritten completely.
  await client.schedules.create({ scheduleId, destination: "https://www.other.com", cron: "*/5 * * * *" });
  const overwritten = await client.schedules.get(scheduleId);
  assert.deepEqual([overwritten.destination, overwritten.body, overwritten.isPaused], ["https://www.other.com", undefined, false]);
  assert.ok((await client.schedules.list()).some((each) => each.scheduleId === scheduleId));
  await client.schedules.delete(scheduleId);
  await refused(404, client.schedules.get(scheduleId));
}
js_keeps_a_schedule.covers = ["schedules.create", "schedules.get", "schedules.list", "schedules.pause", "schedules.resume", "schedules.delete"];

export async function js_controls_the_flow({ client, origin, arrived, received }) {
  const flowControl = { key: "js-key.1", parallelism: 2, rate: 100, period: "1m" };
  const first = await client.publish({ url: `${origin}/f`, flowControl });
  const shown = await client.flowControl.get("js-key.1");
  assert.deepEqual([shown.flowControlKey, shown.parallelismMax, shown.rateMax, shown.ratePeriod], ["js-key.1", 2, 100, 60]);
  await arrived(first.messageId);
  const message = await client.messages.get(first.messageId);
  assert.deepEqual([message.flowControlKey, message.parallelism, message.rate, message.period], ["js-key.1", 2, 100, 60]);
  await client.flowControl.pause("js-key.1");
  const second = await client.publish({ url: `${origin}/f`, flowControl });
  const paused = await client.flowControl.get("js-key.1");
  assert.deepEqual([paused.isPaused, paused.waitListSize], [true, 1]);
  assert.equal(received.some((each) => each.headers["upstash-message-id"] === second.messageId), false);
  await client.flowControl.pin("js-key.1", { parallelism: 5, rate: 7, period: 30 });
  const pinned = await client.flowControl.get("js-key.1");
  assert.deepEqual([pinned.isPinnedParallelism, pinned.isPinnedRate, pinned.parallelismMax, pinned.rateMax], [true, true, 5, 7]);
  await client.flowControl.unpin("js-key.1", { parallelism: true, rate: true });
  assert.equal((await client.flowControl.get("js-key.1")).isPinnedRate, false);
  await client.flowControl.resetRate("js-key.1");
  await client.flowControl.resume("js-key.1");
  await arrived(second.messageId);
  const { parallelismMax, parallelismCount } = await client.flowControl.getGlobalParallelism();
  assert.ok(parallelismMax > 0 && parallelismCount >= 0);
}
js_controls_the_flow.covers = ["flowControl.get", "flowControl.getGlobalParallelism", "flowControl.pause", "flowControl.resume", "flowControl.pin", "flowControl.unpin", "flowControl.resetRate"];

export async function js_sees_why_it_was_refused({ client }) {
  await refused(400, client.publish({ url: "example.com" }));
  await refused(400, client.publish({ url: "https://example.com", retryDelay: "pow(" }));
  await refused(400, client.messages.cancel({ filter: { labeel: "x" } }));
}
js_sees_why_it_was_refused.covers = [];
