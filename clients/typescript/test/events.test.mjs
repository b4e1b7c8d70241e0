// The numbered log: nothing is lost in silence, whoever is slow, cut off or killed.
import assert from "node:assert/strict";
import { test } from "node:test";
import { connect } from "fabstir-client";
import { daemon, impostor, rejection, sleep, started, until } from "./support.mjs";

const NODE = ["p2p:started", "p2p:stopped"];

async function clientOf(running, options = {}) {
  return started(await connect({ dataDir: running.dataDir, ...options }));
}

for (const transport of ["ipc", "http"]) {
  test(`what a call causes is not missed, over ${transport}`, async (t) => {
    const running = await daemon(t);
    const client = await clientOf(running, transport === "ipc" ? {} : { api: running.http });
    const events = client.events({ types: NODE }); // not awaited
    await client.stop();
    await client.start();
    assert.equal((await events.next()).value.type, "p2p:stopped");
    const { value } = await events.next();
    assert.equal(value.type, "p2p:started");
    assert.equal(value.data.peerId, (await client.status()).peerId);
    assert.equal(events.snapshot.status.state, "started");
    await client.close();
    assert.deepEqual(await events.next(), { done: true, value: undefined });
  });
}

test("over a kill -9: a gap is told, and the new run from its beginning", async (t) => {
  const running = await daemon(t);
  const client = await clientOf(running);
  const events = client.events({ types: NODE });
  const { epoch } = await events.ready();
  await client.stop();
  assert.equal((await events.next()).value.type, "p2p:stopped");
  await running.kill();
  await sleep(300);
  await running.start();
  assert.deepEqual((await events.next()).value, { type: "lagged", missed: null, resume: 1 });
  const { value } = await events.next();
  assert.equal(value.type, "p2p:started");
  assert.equal(value.epoch, running.api.epoch);
  assert.notEqual(value.epoch, epoch);
  await client.close();
});

test("a connection that is cut loses nothing and tells nothing twice", async (t) => {
  const running = await daemon(t);
  const client = await clientOf(running);
  const { createConnection } = await import("node:net");
  const open = new Set();
  const api = await impostor(t, (socket) => {
    const to = createConnection(running.api.ipc);
    for (const [from, into] of [[socket, to], [to, socket]]) {
      from.on("error", () => {}).on("close", () => into.destroy()).pipe(into);
    }
    open.add(socket);
  });
  const far = await connect({ api });
  const { head } = await far.status();
  const seen = [];
  const reading = (async () => {
    for await (const item of far.events({ after: head })) if (seen.push(item) === 60) break;
  })();
  for (let turn = 0; turn < 30; turn += 1) {
    await client.stop();
    if (turn % 5 === 2) for (const socket of open) socket.destroy();
    await client.start();
  }
  await reading;
  assert.deepEqual(seen.map((item) => item.seq), Array.from({ length: 60 }, (_, index) => head + 1 + index));
  await far.close();
  await client.close();
});

test("a reader who stops reading costs bounded memory, and is told what the log forgot", async (t) => {
  const running = await daemon(t, { "events.history": 64, "api.max_send_queue_bytes": 65536, "api.send_timeout": 600000 });
  const client = await clientOf(running);
  const events = client.events();
  await events.ready();
  const before = (await client.status()).head;
  // A daemon's event costs a moment each: an impostor is quicker, see below. Here only the gap is looked at.
  for (let turn = 0; turn < 40; turn += 1) {
    await client.stop();
    await client.start();
  }
  let count = 0;
  for await (const item of events) {
    count += item.type === "lagged" ? item.missed : 1;
    if (count >= 80) break;
  }
  assert.equal(before + count, (await client.status()).head);
  await client.close();
});

test("more than a thousand events that nobody takes stay in the daemon", async (t) => {
  let written = 0;
  const api = await impostor(t, (socket) => {
    const event = (seq) => JSON.stringify({
      jsonrpc: "2.0", method: "event",
      params: { subscription: "s1", epoch: "e", seq, time: 1, type: "dht:mode", data: { mode: "x".repeat(4000) } },
    });
    socket.on("data", (data) => {
      for (const line of String(data).trim().split("\n")) {
        const { id, method } = JSON.parse(line);
        const status = { version: "1", epoch: "e", head: 0, state: "started" };
        const result = method === "status" ? status : { subscription: "s1", epoch: "e", head: 0, status, peers: [] };
        socket.write(JSON.stringify({ jsonrpc: "2.0", id, result }) + "\n");
        if (method !== "subscribe") continue;
        const more = () => {
          while (written < 20_000 && socket.write(event(++written) + "\n"));
        };
        socket.on("drain", more);
        more();
      }
    });
  });
  const client = await connect({ api });
  const events = client.events();
  await events.ready();
  let last = -1;
  await until(async () => {
    await sleep(300);
    const still = written === last;
    last = written;
    return still;
  });
  assert.ok(written < 5_000, `${written} events of 4 KB were read ahead`);
  let seq = 0;
  for await (const item of events) {
    assert.equal(item.seq, ++seq);
    if (seq === 20_000) break;
  }
  await client.close();
});

test("break, a signal and close end the iteration", async (t) => {
  const running = await daemon(t);
  const client = await clientOf(running);
  const aborting = new AbortController();
  const events = client.events({ signal: aborting.signal });
  const waiting = events.next();
  await events.ready();
  aborting.abort();
  assert.equal((await waiting).done, true);
  assert.equal((await client.events({ signal: aborting.signal }).next()).done, true);
  const other = client.events({ after: 0 });
  for await (const item of other) {
    assert.equal(item.seq, 1);
    break;
  }
  assert.equal((await other.next()).done, true);
  await client.close();
});

test("what will not mend itself is thrown by the iteration", async (t) => {
  const running = await daemon(t);
  const client = await clientOf(running);
  assert.throws(() => client.events({ types: ["nonsense"] }), /no events of type nonsense/);
  const error = await rejection(client.events({ after: 1_000_000 }).next());
  assert.equal(error.code, "INVALID_PARAMS");
  await client.close();
});

test("a token that is revoked ends an iteration with FORBIDDEN", async (t) => {
  const running = await daemon(t);
  const client = await clientOf(running);
  const { token } = await client.token.create("reader", "read");
  const reader = await connect({ api: running.http, token });
  const events = reader.events();
  await events.ready();
  const waiting = rejection(events.next());
  await client.token.revoke("reader");
  assert.equal((await waiting).code, "FORBIDDEN");
  assert.equal((await rejection(reader.status())).code, "FORBIDDEN");
  await reader.close();
  await client.close();
});
