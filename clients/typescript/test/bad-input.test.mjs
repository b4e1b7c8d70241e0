// What is no daemon, or one no longer: each is one typed error that says what was tried and what to run, and a program
// that met it ends by itself. Each program is a process of its own: nothing of this one keeps it alive or catches for it.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { once } from "node:events";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, test } from "node:test";
import { connect, DaemonUnreachable, hasCode, isFabstirError } from "fabstir-client";
import { daemon, impostor, rejection, run, started } from "./support.mjs";

const GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const MIB = 1 << 20;
const STATUS = { version: "0.0.1", epoch: "e" };

/** A program that calls, and prints what it was told. */
const PROGRAM = `
  const { Client, isFabstirError } = require("fabstir-client");
  process.on("unhandledRejection", (error) => console.log("unhandled", error));
  const client = new Client({ api: process.env.API, token: process.env.TOKEN || undefined });
  const events = client.events(); // nobody reads them
  client.on("error", (error) => console.log("error event", error));
  const told = (error) => console.log(JSON.stringify([isFabstirError(error), error.code, error.message, error.retryable]));
  client.call("version").then((result) => console.log(JSON.stringify(result)), told).finally(() => client.close());
`;

/** What the program printed, once it has ended by itself. */
async function told(api, env = {}) {
  const { code, signal, out, err } = await run(PROGRAM, { type: "commonjs", env: { API: api, TOKEN: "x", ...env } });
  assert.deepEqual([code, signal, err], [0, null, ""], out);
  const lines = out.trim().split("\n");
  assert.equal(lines.length, 1, out);
  const [typed, ...rest] = JSON.parse(lines[0]);
  assert.equal(typed, true, out);
  // eslint-disable-next-line no-control-regex
  assert.doesNotMatch(rest[1], /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u202e]/);
  return rest;
}

const text = (id, more) => `${JSON.stringify({ jsonrpc: "2.0", id, ...more })}\n`;

/** `say(id, method, write)` answers each call as something that is not quite a daemon would. */
async function onSocket(t, say) {
  return impostor(t, (socket) => {
    socket.on("data", (data) => {
      for (const line of String(data).trim().split("\n")) {
        const { id, method } = JSON.parse(line);
        say(id, method, (bytes) => socket.write(bytes), socket);
      }
    });
  });
}

/** The same over a WebSocket, whose texts are `write`'s without their newline. */
async function onWebSocket(t, say) {
  const open = new Set();
  const server = createServer((socket) => {
    open.add(socket.on("error", () => {}));
    let received = Buffer.alloc(0);
    let shaken = false;
    const write = (bytes) => {
      const body = Buffer.from(bytes);
      const head = Buffer.alloc(10);
      head.set([0x81, 127]);
      head.writeBigUInt64BE(BigInt(body.length), 2);
      socket.write(Buffer.concat([head, body]));
    };
    socket.on("data", (data) => {
      received = Buffer.concat([received, data]);
      if (!shaken) {
        const end = received.indexOf("\r\n\r\n");
        if (end < 0) return;
        const key = /sec-websocket-key: (.*)/i.exec(received.subarray(0, end).toString())[1].trim();
        const accept = createHash("sha1").update(key + GUID).digest("base64");
        socket.write(`HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${accept}\r\n\r\n`);
        received = received.subarray(end + 4);
        shaken = true;
      }
      while (received.length >= 6) { // a client's short frames: two bytes or four of length, and a mask
        const short = received[1] & 0x7f;
        const [size, at] = short < 126 ? [short, 2] : [received.readUInt16BE(2), 4];
        if (received.length < at + 4 + size) return;
        const mask = received.subarray(at, at + 4);
        const body = received.subarray(at + 4, at + 4 + size).map((byte, index) => byte ^ mask[index % 4]);
        const opcode = received[0] & 0x0f;
        received = received.subarray(at + 4 + size);
        if (opcode !== 1) continue;
        const { id, method } = JSON.parse(String(body));
        say(id, method, write, socket);
      }
    });
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => {
    for (const socket of open) socket.destroy();
    server.close();
  });
  return `http://127.0.0.1:${server.address().port}`;
}

const good = (id, write) => write(text(id, { result: STATUS }));

/** What comes for the call of `version`, after a greeting that is right. */
const CASES = {
  "half an answer": [(id, write, socket) => { socket.write('{"jsonrpc":"2.0","resu'); socket.end(); }, /CONNECTION_LOST|BAD_ANSWER/],
  "no JSON": [(_, write) => write("<html>no such page</html>\n"), /BAD_ANSWER/],
  "no JSON-RPC": [(_, write) => write('[["hello"]]\n'), /BAD_ANSWER/],
  "bytes that are no text": [(_, write) => write(Buffer.from([0x22, 0xc3, 0x28, 0xff, 0x22, 0x0a])), /BAD_ANSWER/],
  "a deep answer": [(_, write) => write("[".repeat(100_000) + "\n"), /BAD_ANSWER/],
  "an answer without an outcome": [(id, write) => write(text(id, {})), /BAD_ANSWER/],
  "a method that an old daemon has not": [
    (id, write) => write(text(id, { error: { code: -32601, message: "Method not found: version", data: { code: "METHOD_NOT_FOUND", retryable: false } } })),
    /METHOD_NOT_FOUND.*the daemon is version 0\.0\.1, this client is made for .*: use two of one version/,
  ],
  "hostile texts": [
    (id, write) => write(text(id, { error: { code: -32602, message: `\u001b[2J\u202e${"x".repeat(100_000)}`, data: { code: "../../__proto__", retryable: "yes" } } })),
    /INVALID_PARAMS.{4000,4300}$/,
  ],
  "an error of numbers and lists": [(id, write) => write(text(id, { error: [1, 2] })), /INTERNAL_ERROR.*unknown error/],
  "an end": [(_, __, socket) => socket.end(), /CONNECTION_LOST/],
};

for (const [transport, open] of Object.entries({ ipc: onSocket, websocket: onWebSocket })) {
  describe(`over ${transport}`, () => {
    for (const [name, [act, expected]] of Object.entries(CASES)) {
      test(name, async (t) => {
        const api = await open(t, (id, method, write, socket) => (method === "version" ? act(id, write, socket) : good(id, write)));
        assert.match((await told(api)).join(" "), expected);
      });
    }

    test("an answer of more than 64 MiB is not collected", async (t) => {
      let sent = 0;
      const api = await open(t, (id, method, write, socket) => {
        if (method !== "version") return good(id, write);
        if (transport === "websocket") return write(Buffer.alloc(65 * MIB, 0x20));
        const more = () => {
          while (!socket.destroyed && socket.write(Buffer.alloc(MIB, 0x20))) sent += 1;
          sent += 1;
        };
        socket.on("drain", more);
        return more();
      });
      assert.match((await told(api)).join(" "), /BAD_ANSWER.*67108864/);
      assert.ok(sent < 100, `${sent} MiB`);
    });

    test("an answer just under 64 MiB is taken", async (t) => {
      const padding = "x".repeat(60 * MIB);
      const api = await open(t, (id, method, write) => (method === "version" ? write(text(id, { result: { padding } })) : good(id, write)));
      const client = await connect({ api, token: "x" });
      assert.equal((await client.call("version")).padding.length, 60 * MIB);
      await client.close();
    });
  });
}

describe("the program is told where it was looked for, and what to run", () => {
  test("nobody listens", async () => {
    const place = mkdtempSync(join(tmpdir(), "fc-"));
    const [code, message, retryable] = await told(`ipc:${place}/none.sock`);
    assert.deepEqual([code, retryable], ["DAEMON_UNREACHABLE", true]);
    assert.match(message, new RegExp(`none\\.sock: not there.*Start one with: fabstird run --set api\\.ipc=${place}/none\\.sock$`));
    rmSync(place, { recursive: true });
    assert.match((await told("http://127.0.0.1:1")).join(" "), /DAEMON_UNREACHABLE.*127\.0\.0\.1:1.*refused, nobody listens there/);
  });

  test("something else listens, and greets first", async (t) => {
    const api = await impostor(t, (socket) => socket.write("SSH-2.0-OpenSSH_9.2\r\n"));
    assert.match((await told(api)).join(" "), /DAEMON_UNREACHABLE.*is no fabstird: what came is not JSON.*fabstird run/);
    const [code, message] = await told(`http://${await plain(t, "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")}`);
    assert.equal(code, "DAEMON_UNREACHABLE");
    assert.match(message, /answered 200: hello/);
  });

  test("a wrong token", async (t) => {
    const running = await daemon(t);
    const [code, message] = await told(running.http, { TOKEN: "wrong" });
    assert.equal(code, "FORBIDDEN");
    assert.match(message, /does not take the token \(given by the caller\).*api\.token in the data directory.*fabstir token create/);
  });

  test("a page that cannot be: an endless refusal", async (t) => {
    const place = await plain(t, "HTTP/1.1 403 Forbidden\r\n\r\n" + "\u001b[2Jno ".repeat(200_000));
    assert.match((await told(`http://${place}`)).join(" "), /FORBIDDEN.*refuses this client/);
  });
});

/** A TCP port where whoever asks is given these bytes. */
async function plain(t, bytes) {
  const open = new Set();
  const server = createServer((socket) => {
    open.add(socket.on("error", () => {}));
    socket.once("data", () => socket.write(bytes));
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => {
    for (const socket of open) socket.destroy();
    server.close();
  });
  return `127.0.0.1:${server.address().port}`;
}

test("a daemon that something else replaces: calls are refused in words, readers wait, and all goes on with a daemon", { timeout: 180_000 }, async (t) => {
  const running = await daemon(t);
  const api = `http://${running.api.http}`;
  const client = await started(await connect({ api, token: running.token }));
  const events = client.events({ types: ["p2p:started"] });
  await events.ready();
  await client.handle("/bad-input/1", () => {});
  const { http } = running.api;
  await running.kill();
  const open = new Set();
  const other = createServer((socket) => {
    open.add(socket.on("error", () => {})); // nobody reads it, so it would not close by itself
    socket.end("HTTP/1.0 200 OK\r\n\r\nhello");
  }).listen(Number(http.split(":")[1]), "127.0.0.1");
  await once(other, "listening");
  const error = await rejection(client.status());
  assert.ok(isFabstirError(error) && (error instanceof DaemonUnreachable || hasCode(error, "CONNECTION_LOST")), error);
  other.close();
  for (const socket of open) socket.destroy();
  await once(other, "close");
  await running.start({ "api.http": http });
  for await (const event of events) if (event.type === "p2p:started" && event.epoch === running.api.epoch) break;
  assert.ok((await client.version()).version);
  await client.close();
});
