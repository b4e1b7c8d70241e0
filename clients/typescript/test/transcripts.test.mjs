// The conformance transcripts of the daemon, through the client: every call in them is made by it, and has the result or
// the error that they promise; and every answer in them is survived, whoever gives it.
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { connect, isFabstirError, RpcError } from "fabstir-client";
import { Daemon, impostor, rejection } from "./support.mjs";

const PLACE = process.env.FABSTIR_TEST_TRANSCRIPTS;
const SETTINGS = { "node.auto_start": false };
const MODULES = { usual: "fabstird", specification: "tests.conformance.specification_daemon" };
const EXPRESSIBLE = 40; // calls, of all transcripts together; the others are texts that no client sends

/** The lines that are sent, each with the patterns of what comes for it. */
function steps(path) {
  const found = [];
  for (const line of readFileSync(path, "utf8").split("\n")) {
    const [, kind, text] = /^(>>\w*|<<\w*) ?(.*)$/.exec(line) ?? [];
    if (kind?.startsWith(">>")) found.push({ kind, text: repeated(text), patterns: [] });
    else if (kind === "<<" || kind === "<<any") found.at(-1).patterns.push(JSON.parse(text));
  }
  return found;
}

function head(path, name, otherwise) {
  return new RegExp(`^${name}: (.*)$`, "m").exec(readFileSync(path, "utf8"))?.[1] ?? otherwise;
}

const repeated = (text) => text.replace(/⟨(\d+)\*(.*?)⟩/g, (_, count, what) => what.repeat(Number(count)));

/** The calls of a text that a client can make, each with the pattern of its answer. */
function calls({ kind, text, patterns }, captured) {
  const bare = text.replace(/"(\\.|[^"\\])*"/g, '""');
  if (kind !== ">>" || /\d[.eE]|\d{16}/.test(bare) || text.includes("\\ud800")) return []; // JavaScript would write it otherwise
  let parsed;
  try {
    parsed = JSON.parse(text.replace(/\$([a-z]+)/g, (_, name) => captured[name]));
  } catch {
    return [];
  }
  const asked = Array.isArray(parsed) ? parsed : [parsed];
  const answers = patterns.flat();
  return asked.filter((one) => isCall(one) && asked.filter((other) => other?.id === one.id).length === 1).flatMap((one) => {
    const pattern = answers.find((answer) => answer.id === one.id);
    return pattern === undefined ? [] : [{ ...one, pattern }];
  });
}

function isCall(one) {
  const known = ["jsonrpc", "method", "params", "id"];
  return typeof one === "object" && one !== null && one.jsonrpc === "2.0" && typeof one.method === "string" && one.id != null
    && Object.keys(one).every((key) => known.includes(key)) && (one.params === undefined || (typeof one.params === "object" && one.params !== null));
}

function matches(pattern, value, captured) {
  if (typeof pattern === "string" && pattern.startsWith("$")) {
    if (pattern === "$_") return true;
    captured[pattern.slice(1)] ??= value;
    return Object.is(captured[pattern.slice(1)], value) || JSON.stringify(captured[pattern.slice(1)]) === JSON.stringify(value);
  }
  if (typeof pattern !== "object" || pattern === null) return pattern === value;
  if (typeof value !== "object" || value === null || Array.isArray(pattern) !== Array.isArray(value)) return false;
  const keys = Object.keys(pattern);
  return keys.length === Object.keys(value).length && keys.every((key) => key in value && matches(pattern[key], value[key], captured));
}

/** How the client tells the answer of one call, in the form of the answer. */
async function told(client, { method, params, id }) {
  try {
    return { jsonrpc: "2.0", result: await client.call(method, params), id };
  } catch (error) {
    assert.ok(error instanceof RpcError, error);
    return { jsonrpc: "2.0", error: { code: error.rpcCode, message: error.message, data: error.data }, id };
  }
}

const files = readdirSync(PLACE).filter((name) => name.endsWith(".txt")).sort();

describe("every call of the transcripts", () => {
  const running = new Map();
  let made = 0;
  before(async () => {
    for (const [name, module] of Object.entries(MODULES)) {
      running.set(name, await new Daemon(SETTINGS, module).start());
    }
  });
  after(async () => {
    for (const one of running.values()) await one.remove();
  });

  for (const name of files) {
    const path = join(PLACE, name);
    const transports = head(path, "transports", "ipc http ws").split(" ");
    for (const transport of transports.filter((one) => one !== "http")) { // with an address over HTTP the client uses /ws
      test(`${name} over ${transport}`, async () => {
        const one = running.get(head(path, "daemon", "usual"));
        const client = await connect(transport === "ipc" ? { dataDir: one.dataDir } : { api: one.http, token: one.token });
        const events = client.events({ types: ["p2p:started", "p2p:stopped"] });
        const captured = {};
        for (const step of steps(path)) {
          const asked = calls(step, captured);
          const answers = await Promise.all(asked.map((call) => told(client, call)));
          for (const [index, { pattern }] of asked.entries()) {
            assert.ok(matches(pattern, answers[index], captured), `${step.text}: ${JSON.stringify(answers[index])}`);
            made += 1;
          }
          // Notifications of subscriptions are the iteration's to tell: each entry once
          for (const { method, params } of step.patterns) {
            if (method !== "event" || params.subscription !== "$all") continue;
            assert.ok(asked.length > 0, `nothing was asked: ${step.text}`);
            const { value } = await events.next();
            const { subscription, ...expected } = params;
            assert.ok(matches(expected, value, captured), JSON.stringify(value));
          }
        }
        await client.close();
      });
    }
  }

  test("most of them are calls that a client can make", () => assert.ok(made >= EXPRESSIBLE, String(made)));
});

test("every answer of the transcripts, as the answer to a call of the client's: told or refused, never more", async (t) => {
  let waiting; // what is said next
  const api = await impostor(t, (socket) => {
    socket.on("data", (data) => {
      for (const line of String(data).trim().split("\n")) {
        const { id, method } = JSON.parse(line);
        const text = method === "status" ? JSON.stringify({ jsonrpc: "2.0", id, result: { version: "1", epoch: "e" } }) : waiting(id);
        socket.write(`${text}\n`);
      }
    });
  });
  const client = await connect({ api });
  client.on("error", () => {});
  let said = 0;
  for (const name of files) {
    for (const { patterns } of steps(join(PLACE, name))) {
      for (const pattern of patterns.flat()) {
        waiting = (id) => JSON.stringify({ ...pattern, ...("id" in pattern && pattern.id !== null ? { id } : {}) });
        const answered = "id" in pattern;
        if (!answered) continue; // a notification alone leaves the call waiting, as it must
        said += 1;
        if ("result" in pattern && pattern.id === null) {
          assert.equal((await rejection(client.call("version"))).code, "BAD_ANSWER"); // no call of the client's has that id
          continue;
        }
        if ("result" in pattern) {
          assert.deepEqual(await client.call("version"), pattern.result);
          continue;
        }
        const error = await rejection(client.call("version"));
        assert.ok(isFabstirError(error), error);
        assert.equal(error.rpcCode, typeof pattern.error.code === "number" ? pattern.error.code : 0);
      }
    }
  }
  assert.ok(said > 80, String(said));
  await client.close();
});

test("a batch's answer, which the client never asked for, ends the connection and not the program", async (t) => {
  const api = await impostor(t, (socket) => {
    socket.on("data", (data) => {
      const { id, method } = JSON.parse(String(data));
      socket.write(method === "status"
        ? JSON.stringify({ jsonrpc: "2.0", id, result: { version: "1", epoch: "e" } }) + "\n"
        : JSON.stringify([{ jsonrpc: "2.0", id, result: {} }]) + "\n");
    });
  });
  const client = await connect({ api });
  const error = await rejection(client.call("version"));
  assert.equal(error.code, "BAD_ANSWER");
  assert.match(error.message, /is no fabstird: what came is not JSON-RPC/);
  await client.close();
});
