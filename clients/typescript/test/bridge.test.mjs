// The SDK's bridge client: messages between two daemons.
import assert from "node:assert/strict";
import { test } from "node:test";
import { connect, hasCode } from "fabstir-client";
import { P2PBridgeClient } from "fabstir-client/bridge";
import { daemon, rejection, started, until } from "./support.mjs";

const MESSAGE = { type: "job", payload: { model: "llama", text: "grüße" } };

test("two bridge clients, over a daemon that is killed in between", async (t) => {
  const settings = { "api.bridge": true };
  const [here, there] = await Promise.all([daemon(t, settings), daemon(t, settings)]);
  const [one, other] = await Promise.all(
    [here, there].map(async (running) => started(await connect({ dataDir: running.dataDir }))),
  );
  const { peerId, listenAddresses: [address] } = await other.status();
  await one.connect(address);
  const [left, right] = [new P2PBridgeClient(), new P2PBridgeClient()];
  assert.deepEqual(await left.getStatus(), { connected: false, connections: 0 });
  assert.ok(hasCode(await rejection(left.sendMessage(peerId, MESSAGE)), "CONNECTION_LOST"));
  await left.connect(`ws://${here.api.http}/ws?token=${here.token}`); // as the SDK does
  await right.connect({ dataDir: there.dataDir });
  assert.ok(left.isAvailable());
  assert.equal((await left.getStatus()).connections, 1);
  assert.equal((await left.discoverNodes()).nodes[0].id, peerId);
  const came = [];
  right.onMessage((message) => {
    came.push(message);
    if (came.length === 1) throw new Error("a handler's own affair");
  });
  assert.equal((await left.sendMessage(peerId, MESSAGE)).delivered, 1);
  await until(() => came.length === 1);
  assert.deepEqual([came[0].payload, came[0].from], [MESSAGE.payload, (await one.status()).peerId]);

  await there.kill();
  await until(() => !right.isAvailable());
  await there.start();
  await until(() => right.isAvailable()); // by itself, at whatever port it listens now
  await started(other);
  await one.connect((await other.status()).listenAddresses[0]);
  assert.equal((await left.sendMessage(peerId, MESSAGE)).delivered, 1);
  await until(() => came.length === 2);

  await right.disconnect();
  assert.ok(hasCode(await rejection(left.sendMessage(peerId, MESSAGE)), "INVALID_STATE"));
  await left.disconnect();
  await one.close();
  await other.close();
});
