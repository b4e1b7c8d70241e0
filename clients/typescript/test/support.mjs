// Real daemons for the tests, and small servers that are none.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, openSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

const PATIENCE = 60_000; // ms, on a machine that is busy with other things
const QUIET = {
  "node.listen_addresses": ["/ip4/127.0.0.1/tcp/0"],
  "node.enable_mdns": false,
  "node.enable_dht": false,
  "api.http": "127.0.0.1:0",
};

/** The first true value of `condition`, which may be asynchronous. */
export async function until(condition, within = PATIENCE) {
  const due = Date.now() + within;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > due) throw new Error(`still ${value} after ${within} ms: ${condition}`);
    await sleep(10);
  }
}

/** One data directory, and the daemon in it; `start` after `kill` is a restart. */
export class Daemon {
  constructor(settings = {}, module = "fabstird") {
    this.module = module;
    this.place = mkdtempSync(join(tmpdir(), "fc-")); // a Unix socket's path has at most 107 bytes
    this.dataDir = join(this.place, "d");
    this.settings = { ...QUIET, ...settings };
  }

  async start(settings = {}) {
    const words = ["-m", this.module, "run", "--data-dir", this.dataDir];
    for (const [key, value] of Object.entries({ ...this.settings, ...settings })) {
      words.push("--set", `${key}=${JSON.stringify(value)}`);
    }
    const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^(FABSTIR|XDG_)/.test(name)));
    const log = openSync(join(this.place, "log"), "a");
    this.process = spawn(process.env.FABSTIR_TEST_PYTHON, words, { stdio: ["ignore", log, log], env });
    this.exited = once(this.process, "exit");
    await until(() => {
      if (this.process.exitCode !== null) throw new Error(`the daemon ended: ${this.log}`);
      try {
        this.api = JSON.parse(readFileSync(join(this.dataDir, "api.json"), "utf8"));
      } catch (error) {
        if (error.code === "ENOENT") return false; // not yet, or that of a daemon that was killed has just gone
        throw error;
      }
      return this.api.pid === this.process.pid;
    });
    return this;
  }

  get log() {
    return readFileSync(join(this.place, "log"), "utf8");
  }

  get http() {
    return `http://${this.api.http}`;
  }

  get token() {
    return readFileSync(join(this.dataDir, "api.token"), "utf8").trim();
  }

  async kill(signal = "SIGKILL") {
    if (this.process === undefined) return;
    this.process.kill(signal);
    await this.exited;
    this.process = undefined;
  }

  async remove() {
    await this.kill();
    rmSync(this.place, { recursive: true, force: true });
  }
}

/** Until the node is started, too. */
export async function started(client) {
  await until(async () => (await client.status()).state === "started");
  return client;
}

/** A daemon that listens, which goes with the test. */
export async function daemon(t, settings) {
  const made = new Daemon(settings);
  t.after(() => made.remove());
  return made.start();
}

/** Something that listens on a Unix socket and is no daemon. `act(socket)` is called for each connection. */
export async function impostor(t, act) {
  const place = mkdtempSync(join(tmpdir(), "fc-"));
  const path = join(place, "s");
  const open = new Set();
  const server = createServer((socket) => {
    open.add(socket);
    socket.on("error", () => {});
    act(socket);
  }).listen(path);
  await once(server, "listening");
  t.after(() => {
    for (const socket of open) socket.destroy();
    server.close();
    rmSync(place, { recursive: true, force: true });
  });
  return `ipc:${path}`;
}

/** A host that takes connections and never says a word: a dial of its port stays in flight; `came` are those in it. */
export async function silentHost(t) {
  const came = new Set();
  const server = createServer((socket) => came.add(socket.on("error", () => {}))).listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => {
    for (const socket of came) socket.destroy();
    server.close();
  });
  return { port: server.address().port, came };
}

/** What the promise is rejected with. */
export async function rejection(promise) {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  throw new Error("it was not rejected");
}

/** Run a program of this Node to its end, which must come by itself. */
export async function run(source, { type = "module", env = {}, within = PATIENCE } = {}) {
  const child = spawn(process.execPath, [`--input-type=${type}`, "-e", source], {
    stdio: ["ignore", "pipe", "pipe"], env: { ...process.env, NODE_OPTIONS: "", ...env }, cwd: import.meta.dirname ?? process.cwd(),
  });
  let [out, err] = ["", ""];
  child.stdout.on("data", (data) => (out += data));
  child.stderr.on("data", (data) => (err += data));
  const timer = setTimeout(() => child.kill("SIGKILL"), within);
  const [code, signal] = await once(child, "close");
  clearTimeout(timer);
  return { code, signal, out, err };
}

export { sleep, PATIENCE };
