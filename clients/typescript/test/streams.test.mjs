// Streams between two daemons: byte for byte, with half-close, resets and back-pressure; and whole messages.
import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { Readable, Transform, Writable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { after, before, describe, test } from "node:test";
import { connect, hasCode, StreamReset } from "fabstir-client";
import { Daemon, daemon, rejection, sleep, started, until } from "./support.mjs";

const MIB = 1 << 20;
const TOKENS = 5_000;

async function all(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return Buffer.concat(chunks);
}

for (const transport of ["ipc", "http"]) {
  describe(`streams over ${transport}`, () => {
    const [here, there] = [new Daemon(), new Daemon()];
    let [client, host, peerId] = [];
    const options = (running) => (transport === "ipc" ? { dataDir: running.dataDir } : { api: running.http, dataDir: running.dataDir });
    const errors = [];
    let count = 0;
    /** A protocol of its own for each test, and what its handler is given. */
    async function handled(handler, more) {
      const protocol = `/test/${++count}`;
      await host.handle(protocol, handler, more);
      return protocol;
    }

    before(async () => {
      await Promise.all([here.start(), there.start()]);
      [client, host] = await Promise.all([here, there].map(async (one) => started(await connect(options(one)))));
      host.on("error", (error) => errors.push(error));
      const status = await host.status();
      peerId = status.peerId;
      await client.connect(status.listenAddresses[0]);
    });
    after(async () => {
      await Promise.all([client.close(), host.close()]);
      await Promise.all([here.remove(), there.remove()]);
    });

    test("an echo of megabytes, both ways at once, each side ended by itself", async () => {
      const protocol = await handled(async (stream) => {
        for await (const chunk of stream) await stream.write(chunk);
        await stream.end();
      });
      const data = randomBytes(4 * MIB);
      const stream = await client.openStream(peerId, protocol);
      assert.deepEqual([stream.peerId, stream.protocol, stream.direction], [peerId, protocol, "outbound"]);
      const reading = all(stream);
      for (let at = 0; at < data.length; at += 100_000) await stream.write(data.subarray(at, at + 100_000));
      assert.equal(stream.readEnded, false);
      await stream.end();
      const came = await reading;
      assert.equal(createHash("sha256").update(came).digest("hex"), createHash("sha256").update(data).digest("hex"));
      assert.ok(stream.closed);
    });

    test("the peer ends first, and still reads", async () => {
      const read = [];
      const protocol = await handled(async (stream) => {
        await stream.end("hello");
        read.push(String(await all(stream)));
      });
      const stream = await client.openStream(peerId, protocol);
      assert.equal(String(await stream.read()), "hello");
      assert.equal(await stream.read(), null);
      await stream.write("goodbye");
      await stream.end();
      await until(() => read.length > 0);
      assert.deepEqual(read, ["goodbye"]);
    });

    test("what comes with the answer is the stream's", async () => {
      const protocol = await handled((stream) => stream.end("at once"));
      for (let turn = 0; turn < 20; turn += 1) {
        const stream = await client.openStream(peerId, protocol);
        assert.equal(String(await all(stream)), "at once");
        await stream.end();
      }
    });

    test("five thousand tokens, and a signal that cancels: the peer sees a reset", async () => {
      const ended = [];
      const protocol = await handled(async (stream) => {
        try {
          for (let index = 0; ; index += 1) await stream.write(`token ${index}\n`);
        } catch (error) {
          ended.push(error);
        }
      });
      const aborting = new AbortController();
      const stream = await client.openStream(peerId, protocol, { signal: aborting.signal });
      let [text, tokens] = ["", 0];
      const error = await rejection((async () => {
        for await (const chunk of stream) {
          text += Buffer.from(chunk).toString();
          tokens = text.split("\n").length - 1;
          if (tokens >= TOKENS) aborting.abort();
        }
      })());
      assert.equal(error.name, "AbortError");
      assert.ok(tokens >= TOKENS);
      assert.ok(text.startsWith("token 0\ntoken 1\n") && text.includes(`token ${TOKENS - 1}\n`));
      await until(() => ended.length > 0);
      assert.ok(ended[0] instanceof StreamReset, ended[0]);
      assert.equal(ended[0].data.outcome, "peer_reset");
    });

    test("leaving the loop cancels too", async () => {
      const ended = [];
      const protocol = await handled(async (stream) => {
        await stream.write("more");
        await all(stream).catch((error) => ended.push(error.data.outcome));
      });
      const stream = await client.openStream(peerId, protocol);
      for await (const _ of stream) break;
      await until(() => ended.length > 0);
      assert.deepEqual(ended, ["peer_reset"]);
      assert.ok(hasCode(await rejection(stream.read()), "STREAM_RESET"));
      assert.ok(hasCode(await rejection(stream.write("x")), "STREAM_RESET"));
    });

    test("a reset is never a clean end, whatever was read before", async () => {
      for (const before of ["", "some bytes"]) {
        const protocol = await handled(async (stream) => {
          if (before) await stream.write(before);
          await stream.read(); // until the other side has read it
          await stream.reset();
        });
        const stream = await client.openStream(peerId, protocol);
        if (before) assert.equal(String(await stream.read()), before);
        await stream.write("read");
        const error = await rejection(all(stream));
        assert.ok(error instanceof StreamReset, error);
        assert.equal(error.data.outcome, "peer_reset");
      }
    });

    test("a handler that throws resets, and is told", async () => {
      errors.length = 0;
      const protocol = await handled(async (stream) => {
        await stream.read(); // before that, the reset might overtake the answer to the other side
        throw new Error("a handler of ours");
      });
      const stream = await client.openStream(peerId, protocol);
      await stream.write("x");
      assert.equal((await rejection(all(stream))).code, "STREAM_RESET");
      await until(() => errors.length > 0);
      assert.equal(errors[0].message, "a handler of ours");
    });

    test("a writer is held back by a reader who does not read", async () => {
      let reader;
      const protocol = await handled((stream) => void (reader = stream));
      const stream = await client.openStream(peerId, protocol);
      let written = 0;
      const writing = (async () => {
        for (let turn = 0; turn < 1_000; turn += 1) {
          await stream.write(new Uint8Array(64 * 1024));
          written += 64 * 1024;
        }
        await stream.end();
      })();
      let last = -1;
      await until(async () => {
        await sleep(500);
        const still = written > 0 && written === last;
        last = written;
        return still;
      });
      assert.ok(written < 8 * MIB, `${written} bytes were taken`);
      let read = 0;
      for (let chunk = await reader.read(); chunk !== null; chunk = await reader.read()) read += chunk.length;
      await writing;
      assert.equal(read, 1_000 * 64 * 1024);
      await reader.end();
      assert.equal(await stream.read(), null);
    });

    test("as a Duplex, in a pipeline", async () => {
      const protocol = await handled((stream) => {
        const duplex = stream.toDuplex();
        return pipeline(duplex, new Transform({
          transform: (chunk, _, done) => done(null, String(chunk).toUpperCase()),
        }), duplex);
      });
      const duplex = (await client.openStream(peerId, protocol)).toDuplex();
      const chunks = [];
      await pipeline(Readable.from(["some ", "text"]), duplex, new Writable({
        write(chunk, _, done) {
          chunks.push(chunk);
          done();
        },
      }));
      assert.equal(String(Buffer.concat(chunks)), "SOME TEXT");
    });

    test("what cannot be opened says why", async () => {
      const protocol = await handled((stream) => stream.end());
      const agreed = await client.openStream(peerId, ["/nobody/1", protocol]);
      assert.equal(agreed.protocol, protocol);
      await agreed.close();
      const unsupported = await rejection(client.openStream(peerId, "/nobody/1"));
      assert.ok(hasCode(unsupported, "STREAM_FAILED"), unsupported);
      assert.equal(unsupported.data.reason, "unsupported");
      const nobody = "12D3KooWHHzSeKaY8xuZVzkLbKFfvNgPPeKhFBGrMbNzbm5akpqu";
      assert.ok(hasCode(await rejection(client.openStream(nobody, protocol)), "PEER_NOT_FOUND"));
      assert.ok(hasCode(await rejection(client.openStream("nonsense", protocol)), "INVALID_PARAMS"));
      const aborted = AbortSignal.abort();
      assert.equal((await rejection(client.openStream(peerId, protocol, { signal: aborted }))).name, "AbortError");
      assert.ok(hasCode(await rejection(host.handle(protocol, () => {})), "INVALID_CONFIG"));
    });

    test("a protocol that is no longer handled", async () => {
      const protocol = `/test/${++count}`;
      const handling = await host.handle(protocol, (stream) => stream.end("x"));
      assert.equal(String(await all(await client.openStream(peerId, protocol))), "x");
      await handling.close();
      assert.equal((await rejection(client.openStream(peerId, protocol))).data.reason, "unsupported");
    });

    test("messages, small and large, and one that is not answered", async () => {
      const protocol = await handled((request) => {
        assert.equal(typeof request.deadline, "number");
        if (request.data.length === 3) throw new Error("not this one");
        return Buffer.concat([Buffer.from(request.data), Buffer.from("!")]);
      }, { mode: "message", framing: "u32be" });
      for (const size of [0, 5, 100_000]) {
        const data = randomBytes(size);
        const answer = await client.request(peerId, protocol, data, { framing: "u32be" });
        assert.deepEqual(Buffer.from(answer.data), Buffer.concat([data, Buffer.from("!")]));
      }
    });
  });
}

test("over a kill -9: open streams break, protocols are handled again by themselves", async (t) => {
  const [here, there] = await Promise.all([daemon(t), daemon(t)]);
  const [client, host] = await Promise.all([here, there].map(async (one) => started(await connect({ dataDir: one.dataDir }))));
  await host.handle("/test/kill", async (stream) => {
    for await (const chunk of stream) await stream.write(chunk);
  });
  host.on("error", () => {}); // the stream that breaks below
  const told = [];
  host.on("connected", ({ again }) => told.push(again));
  let { peerId, listenAddresses: [address] } = await host.status();
  await client.connect(address);
  const stream = await client.openStream(peerId, "/test/kill");
  await stream.write("x");
  assert.equal(String(await stream.read()), "x");
  const reading = rejection(stream.read());
  await there.kill();
  const error = await reading;
  assert.ok(error instanceof StreamReset, error);
  assert.equal(error.data.outcome, "peer_gone");
  await there.start();
  await until(() => told.includes(true));
  await started(host);
  ({ listenAddresses: [address] } = await host.status());
  await client.connect(address);
  const again = await until(() => client.openStream(peerId, "/test/kill").catch(() => undefined));
  await again.write("y");
  assert.equal(String(await again.read()), "y");
  const own = rejection(again.read());
  await here.kill();
  assert.equal((await own).code, "STREAM_RESET");
  await Promise.all([client.close(), host.close()]);
});
