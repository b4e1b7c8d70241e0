// Programs end by themselves when their work is done, and not before; nothing kills them.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { connect } from "fabstir-client";
import { Daemon, run, started } from "./support.mjs";

describe("a program", () => {
  const running = new Daemon();
  before(async () => {
    await running.start();
    await (await started(await connect({ dataDir: running.dataDir }))).close();
  });
  after(() => running.remove());
  const program = (source, options = {}) =>
    run(source, { env: { FABSTIR_API: `ipc:${running.api.ipc}`, FABSTIR_HTTP: running.http, FABSTIR_TOKEN: running.token }, ...options });

  test("with an idle client ends", async () => {
    const { code, out, err } = await program(`
      import { connect } from "fabstir-client";
      const client = await connect();
      const events = client.events();
      await events.ready();
      console.log((await client.status()).version);
    `);
    assert.deepEqual([code, err], [0, ""]);
    assert.equal(out.trim(), running.api.version);
  });

  test("in CommonJS, over HTTP, ends too", async () => {
    const { code, out, err } = await program(`
      const { connect, hasCode } = require("fabstir-client");
      connect({ api: process.env.FABSTIR_HTTP }).then(async (client) => {
        console.log(hasCode(await client.ping("nobody").catch((error) => error), "INVALID_PARAMS"));
      });
    `, { type: "commonjs" });
    assert.deepEqual([code, out.trim(), err], [0, "true", ""]);
  });

  test("that waits for an event stays until it comes", async () => {
    const { code, out } = await program(`
      import { connect } from "fabstir-client";
      const client = await connect();
      const events = client.events({ types: ["p2p:stopped", "p2p:started"] });
      await events.ready();
      setTimeout(() => connect().then(async (other) => (await other.stop(), await other.start())), 500).unref();
      setTimeout(() => {}, 600);
      console.log((await events.next()).value.type.slice(0, 3));
    `);
    assert.deepEqual([code, out.trim()], [0, "p2p"]);
  });

  test("is not ended by errors that nobody looks at", async () => {
    const { code, err } = await program(`
      import { connect } from "fabstir-client";
      import { P2PClient } from "fabstir-client/p2p";
      const client = await connect();
      client.events({ after: 1e9 }); // refused, and never iterated
      const p2p = new P2PClient({ bootstrapNodes: ["/ip4/127.0.0.1/tcp/1/p2p/12D3KooW..."], retryDelay: 10 });
      p2p.on("connection:retry", () => { throw new Error("a handler of ours"); });
      const failed = new Promise((resolve) => p2p.on("connection:failed", resolve));
      await p2p.start(); // its error event has no listener
      await failed;
      await p2p.stop();
    `);
    assert.equal(code, 0, err);
    assert.match(err, /a handler failed: Error: a handler of ours/);
  });

  test("with a started P2P client stays until stop", async () => {
    const { code, out } = await program(`
      const { P2PClient } = require("fabstir-client/p2p");
      const p2p = new P2PClient({ listenAddresses: ["/ip4/127.0.0.1/tcp/0"] });
      process.on("exit", () => console.log("end"));
      p2p.start().then(() => {
        console.log(p2p.getStatus());
        setTimeout(() => p2p.stop().then(() => console.log(p2p.getStatus())), 300).unref();
      });
      setTimeout(() => {}, 5000).unref();
    `, { type: "commonjs" });
    assert.deepEqual([code, out.split("\n")], [0, ["started", "stopped", "end", ""]]);
  });
});
