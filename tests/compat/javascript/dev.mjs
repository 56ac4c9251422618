// A client in dev mode, with nothing configured but QSTASH_DEV: it finds the server, which knows its credentials.

import { createServer } from "node:http";
import { once } from "node:events";
import { Client, Receiver } from "@upstash/qstash";

const client = new Client();
const receiver = new Receiver();
const destination = createServer();
const verified = new Promise((resolve, reject) => {
  destination.on("request", async (request, response) => {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    response.end();
    const body = Buffer.concat(chunks).toString();
    receiver.verify({ signature: request.headers["upstash-signature"], body }).then(resolve, reject);
  });
});
destination.listen(0, "127.0.0.1");
await once(destination, "listening");
const { messageId } = await client.publishJSON({ url: `http://127.0.0.1:${destination.address().port}/`, body: { dev: true } });
await verified;
let state;
while (state !== "DELIVERED") state = (await client.logs({ filter: { messageId } })).logs[0]?.state;
console.log(JSON.stringify({ state, verified: await verified }));
process.exit(0);
