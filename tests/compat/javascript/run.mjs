// Runs the cases of cases.mjs one by one against a server, and prints for each what came of it, as a line of JSON.
// QSTASH_URL, QSTASH_TOKEN and the signing keys come from the environment, as in any app.

import { createServer } from "node:http";
import { once } from "node:events";
import { Client, Receiver } from "@upstash/qstash";
import * as cases from "./cases.mjs";

const WAIT_MS = 20_000;
const POLL_MS = 10;

const receiver = new Receiver(); // keys from the environment
const received = [];

const destination = createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const body = Buffer.concat(chunks).toString();
  const url = `http://${request.headers.host}${request.url}`;
  const entry = { method: request.method, url, headers: request.headers, body, error: undefined };
  try {
    await receiver.verify({ signature: request.headers["upstash-signature"], body, url });
  } catch (error) {
    entry.error = error;
  }
  received.push(entry);
  const last = new URL(url).pathname.split("/").pop();
  response.writeHead(/^\d{3}$/.test(last) ? Number(last) : 200, { "X-Answer": "yes" });
  response.end("said");
});
destination.listen(0, "127.0.0.1");
await once(destination, "listening");
const origin = `http://127.0.0.1:${destination.address().port}`;

async function eventually(condition) {
  const end = Date.now() + WAIT_MS;
  for (;;) {
    const result = await condition();
    if (result) return result;
    if (Date.now() > end) throw new Error(`did not come true in time: ${condition}`);
    await new Promise((wake) => setTimeout(wake, POLL_MS));
  }
}

// Wait for a message at the destination; the receiver has verified it.
async function arrived(messageId) {
  const entry = await eventually(() => received.find((each) => each.headers["upstash-message-id"] === messageId));
  if (entry.error) throw entry.error;
  called.add("Receiver.verify");
  return entry;
}

// Note every call by its path, `messages.cancel`; what the client itself offers is `client.publish`.
let called = new Set();
const GROUPS = ["urlGroups", "topics", "dlq", "messages", "schedules", "flowControl", "queue", "workflow"];

function noting(api, path) {
  return new Proxy(api, {
    get(target, name) {
      const value = target[name];
      if (GROUPS.includes(name) && typeof value === "object") return noting(value, name === "topics" ? "urlGroups" : name);
      if (typeof value !== "function") return value;
      if (name === "queue") return (...given) => noting(value.apply(target, given), "queue");
      return (...given) => {
        called.add(`${path}.${name}`);
        return value.apply(target, given);
      };
    },
  });
}

const client = noting(new Client(), "client");
for (const name of process.argv.slice(2)) {
  called = new Set();
  let error;
  try {
    await cases[name]({ client, origin, received, arrived, eventually });
  } catch (thrown) {
    error = thrown.stack ?? String(thrown);
  }
  console.log(JSON.stringify({ name, error, called: [...called] }));
}
destination.close();
destination.closeAllConnections();
