// Calls: over a Unix socket and over HTTP, their errors, and what is no daemon.
import assert from "node:assert/strict";
import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createServer } from "node:http";
import { once } from "node:events";
import { after, before, describe, test } from "node:test";
import { BadAnswer, Client, connect, ConnectionLost, DaemonUnreachable, hasCode, InvalidConfig, isFabstirError, RpcError } from "fabstir-client";
import { Daemon, daemon, impostor, rejection, silentHost, started, until } from "./support.mjs";

for (const transport of ["ipc", "http"]) {
  describe(`calls over ${transport}`, () => {
    const running = new Daemon();
    const options = () => (transport === "ipc" ? { dataDir: running.dataDir } : { api: running.http, token: running.token });
    before(async () => {
      await running.start();
      const client = await started(await connect({ dataDir: running.dataDir }));
      await client.close();
    });
    after(() => running.remove());

    test("results, by name and by position", async () => {
      const client = await connect(options());
      assert.equal(client.daemonVersion, running.api.version);
      assert.equal((await client.status()).epoch, running.api.epoch);
      assert.deepEqual(await client.peers(), []);
      assert.equal((await client.call("version")).version, running.api.version);
      const { dataDir, ...named } = { dataDir: "x", address: "/ip4/127.0.0.1/tcp/1/p2p/nobody" };
      for (const params of [named, [named.address, 500]]) {
        const error = await rejection(client.call("connect", params));
        assert.ok(hasCode(error, "INVALID_PARAMS"), error);
        assert.equal(error.data.param, "address");
        assert.equal(error.retryable, false);
      }
      await client.close();
    });

    test("a hundred at a time, each with its own answer", async () => {
      const client = await connect(options());
      const tags = await Promise.all(Array.from({ length: 100 }, async (_, index) => {
        const error = await rejection(client.peer.tag(`peer-${index}`, "x", 1));
        return error.message.includes(`peer-${index}"`);
      }));
      assert.ok(tags.every(Boolean));
      await client.close();
    });

    test("an answer of several megabytes", async () => {
      const client = await connect(options());
      const [{ methods }, ...rest] = await Promise.all(Array.from({ length: 20 }, () => client.rpc.discover()));
      assert.ok(methods.length > 50);
      assert.equal(rest.length, 19);
      await client.close();
    });

    test("details of an error are typed by its code", async () => {
      const client = await connect(options());
      const address = "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWHHzSeKaY8xuZVzkLbKFfvNgPPeKhFBGrMbNzbm5akpqu";
      const error = await rejection(client.connect(address));
      assert.ok(error instanceof RpcError);
      assert.ok(hasCode(error, "DIAL_FAILED"));
      assert.deepEqual(Object.keys(error.data.errors), [address]);
      assert.equal(error.retryable, true);
      await client.close();
    });

    test("a signal ends the wait, and only that", async () => {
      const client = await connect(options());
      const aborting = new AbortController();
      const waiting = client.call("events", { after: (await client.status()).head, timeout: 20_000 }, { signal: aborting.signal });
      setTimeout(() => aborting.abort(), 20);
      assert.equal((await rejection(waiting)).name, "AbortError");
      assert.ok((await client.version()).version);
      await client.close();
    });

    test("a bound of the client's own", async () => {
      const client = await connect(options());
      const { head } = await client.status();
      const error = await rejection(client.call("events", { after: head, timeout: 20_000 }, { timeout: 50 }));
      assert.ok(hasCode(error, "CLIENT_TIMEOUT"));
      assert.equal(error.retryable, true);
      await client.close();
      assert.ok(hasCode(await rejection(client.status()), "CLOSED"));
    });
  });
}

test("a lost connection: calls in flight say whether to try again, later ones connect anew", async (t) => {
  const running = await daemon(t);
  const client = await started(await connect({ dataDir: running.dataDir }));
  const told = [];
  client.on("disconnected", (error) => told.push(error.code));
  const { head } = await client.status();
  const reading = rejection(client.call("events", { after: head, timeout: 50_000 }));
  const silent = await silentHost(t); // takes connections, and says nothing
  const address = `/ip4/127.0.0.1/tcp/${silent.port}/p2p/12D3KooWHHzSeKaY8xuZVzkLbKFfvNgPPeKhFBGrMbNzbm5akpqu`;
  const changing = rejection(client.connect(address, 50_000));
  await until(() => silent.came.size > 0); // both calls are under way
  await running.kill();
  const [read, changed] = [await reading, await changing];
  assert.ok(read instanceof ConnectionLost, read);
  assert.equal(read.retryable, true);
  assert.equal(changed.code, "CONNECTION_LOST");
  assert.equal(changed.retryable, false, changed.message);
  assert.deepEqual(changed.data, { method: "connect", carriedOut: "unknown" });
  assert.deepEqual(told, ["CONNECTION_LOST"]);
  const unreachable = await rejection(client.status());
  assert.ok(unreachable instanceof DaemonUnreachable, unreachable);
  assert.match(unreachable.message, /refused, nobody listens there.*fabstird run/);
  assert.ok(unreachable.data.tried.length >= 1);
  await running.start();
  assert.equal((await client.status()).epoch, running.api.epoch);
  await client.close();
});

describe("what is no daemon", () => {
  const bad = async (api, options = {}) => {
    const error = await rejection(connect({ api, ...options }));
    assert.ok(isFabstirError(error), error);
    return error;
  };

  test("nobody", async () => {
    const dataDir = mkdtempSync(join(tmpdir(), "fc-"));
    const error = await rejection(connect({ dataDir }));
    assert.ok(error instanceof DaemonUnreachable);
    assert.match(error.message, /api\.json: not there; .*api\.sock: not there.*fabstird run/);
    writeFileSync(join(dataDir, "api.json"), "{half");
    assert.match((await rejection(connect({ dataDir }))).message, /not readable as JSON/);
    writeFileSync(join(dataDir, "api.json"), '{"pid":2147483646,"ipc":null,"http":"127.0.0.1:1"}');
    assert.match((await rejection(connect({ dataDir }))).message, /left by a daemon that is gone/);
  });

  test("wrong settings", async () => {
    for (const options of [{ api: "ftp://x" }, { api: "nonsense" }, { api: "http://x?y" }, { nonsense: "x" }, { token: 7 }]) {
      const error = await rejection((async () => connect(options))());
      assert.ok(error instanceof InvalidConfig, String(error));
    }
  });

  const answers = {
    "a line that is not JSON": [(socket) => socket.write("220 mail ready\r\n"), /is no fabstird: what came is not JSON/],
    "JSON that is none of ours": [(socket) => socket.write('{"hello":"world"}\n'), /not JSON-RPC/],
    "half a line": [(socket) => socket.end('{"jsonrpc":"2.0","id":1,"resu'), /closed the connection/],
    "an answer of another kind": [(socket) => socket.write('{"jsonrpc":"2.0","id":1,"result":7}\n'), /is no fabstird/],
    "an answer with nothing in it": [(socket) => socket.write('{"jsonrpc":"2.0","id":1}\n'), /neither a result nor an error/],
    "an error of the wrong shape": [(socket) => socket.write('{"jsonrpc":"2.0","id":1,"error":"no"}\n'), /unknown error/],
    "an end at once": [(socket) => socket.end(), /closed the connection/],
  };
  for (const [name, [act, expected]] of Object.entries(answers)) {
    test(name, async (t) => {
      const error = await bad(await impostor(t, (socket) => socket.once("data", () => act(socket))));
      assert.match(error.message, expected);
    });
  }

  test("an answer without end is not collected", async (t) => {
    const chunk = Buffer.alloc(1 << 20, 0x20);
    let sent = 0;
    const api = await impostor(t, (socket) => {
      const more = () => {
        while (!socket.destroyed && socket.write(chunk)) sent += 1;
        sent += 1;
      };
      socket.once("data", more);
      socket.on("drain", more);
    });
    assert.match((await bad(api)).message, /more than 67108864 bytes/);
    assert.ok(sent < 100, `${sent} MiB`);
  });

  test("a hostile answer does no harm", async (t) => {
    const status = { version: "9\u0000\u202e", epoch: "e", __proto__: { polluted: true } };
    const api = await impostor(t, (socket) => {
      socket.on("data", (data) => {
        for (const line of String(data).trim().split("\n")) {
          const { id } = JSON.parse(line);
          const nasty = '{"jsonrpc":"2.0","method":"__proto__","params":{"__proto__":{"polluted":1}}}\n'
            + '{"jsonrpc":"2.0","method":"event","params":[1]}\n{"jsonrpc":"2.0","id":999,"result":1}\n'
            + '{"jsonrpc":"2.0","id":"1","result":1}\n\n';
          const error = id > 1 ? { code: -32602, message: "<b>\u001b[2J", data: { code: "constructor", __proto__: null } } : undefined;
          socket.write(nasty + JSON.stringify({ jsonrpc: "2.0", id, ...(error ? { error } : { result: status }) }) + "\n");
        }
      });
    });
    const client = await connect({ api });
    const error = await rejection(client.peers());
    assert.equal(error.code, "INVALID_PARAMS");
    assert.equal({}.polluted, undefined);
    await client.close();
  });

  test("a web server that knows nothing of it, a wrong token", async (t) => {
    const server = createServer((_, response) => response.writeHead(404).end("no such page")).listen(0, "127.0.0.1");
    await once(server, "listening");
    t.after(() => server.close());
    assert.match((await bad(`http://127.0.0.1:${server.address().port}`)).message, /answered 404: no such page/);
    const running = await daemon(t);
    const error = await bad(running.http, { token: "wrong" });
    assert.equal(error.code, "FORBIDDEN");
    assert.match(error.message, /does not take the token \(given by the caller\)/);
    assert.ok(!error.message.includes("wrong"), "the token is told");
  });

  test("an older daemon: a method that it does not know says so", async (t) => {
    const api = await impostor(t, (socket) => {
      socket.on("data", (data) => {
        const { id, method } = JSON.parse(String(data));
        const answer = method === "status" ? { result: { version: "0.0.1", epoch: "e" } }
          : { error: { code: -32601, message: "Method not found", data: { code: "METHOD_NOT_FOUND", retryable: false } } };
        socket.write(JSON.stringify({ jsonrpc: "2.0", id, ...answer }) + "\n");
      });
    });
    const client = new Client({ api });
    const error = await rejection(client.dht.status());
    assert.equal(error.code, "METHOD_NOT_FOUND");
    assert.match(error.message, /the daemon is version 0\.0\.1, this client is made for/);
    await client.close();
  });
});

test("BadAnswer is not retryable, and tells where", () => {
  const error = new BadAnswer("x", { endpoint: "ipc:/y" });
  assert.equal(error.retryable, false);
  assert.equal(error.name, "BadAnswer");
  assert.ok(isFabstirError(error));
  assert.ok(!isFabstirError(new Error("x")));
});
