/** Where the daemon is: what the caller says, what the environment says, and the usual places, in this order. */
import { readFileSync } from "node:fs";
import { homedir } from "node:os";
import { join, resolve } from "node:path";
import { InvalidConfig, record } from "../errors.js";
import type { Candidate, Endpoint, Target } from "../platform.js";
import { parseHttp, withToken } from "../endpoint.js";
import { reasonOf } from "./system.js";

type Environment = Readonly<Record<string, string | undefined>>;

/** The places to try, in order; with `http`, only such. Throws `InvalidConfig` for an address that is none. */
export function candidates(target: Target, http: boolean, environ: Environment = process.env): Candidate[] {
  const said = target.api ?? (target.dataDir === undefined ? environ["FABSTIR_API"] : undefined);
  if (said) {
    const label = target.api === undefined ? `${said} (FABSTIR_API)` : said;
    return [{ label, endpoint: parse(said, target, environ) }];
  }
  const found: Candidate[] = [];
  const seen = new Set<string>();
  for (const directory of directories(target, environ)) {
    const file = fromFile(join(directory, "api.json"), target, http, environ);
    const socket = join(directory, "api.sock");
    add(found, seen, file);
    if (!http) add(found, seen, { label: socket, endpoint: ipc(socket) });
  }
  return found;
}

function add(found: Candidate[], seen: Set<string>, one: Candidate): void {
  const key = "endpoint" in one ? one.endpoint.words : one.label;
  if (!seen.has(key)) found.push(one);
  seen.add(key);
}

/** Where `api.json` and the socket lie: beside each other in a runtime directory, or in the data directory. */
function directories(target: Target, environ: Environment): string[] {
  if (target.dataDir !== undefined) return [resolve(target.dataDir)];
  const places = [...absolute(environ["RUNTIME_DIRECTORY"]?.split(":"))];
  places.push(...absolute([environ["XDG_RUNTIME_DIR"]]).map((place) => join(place, "fabstird")));
  places.push(dataDirectory(target, environ), "/run/fabstird");
  return [...new Set(places)];
}

function absolute(paths: readonly (string | undefined)[] = []): string[] {
  return paths.filter((path): path is string => path !== undefined && path.startsWith("/"));
}

/** The data directory of the daemon that is meant. */
function dataDirectory(target: Target, environ: Environment): string {
  if (target.dataDir !== undefined) return resolve(target.dataDir);
  const [state] = absolute([environ["XDG_STATE_HOME"]]);
  return join(state ?? join(environ["HOME"] || homedir(), ".local", "state"), "fabstird");
}

function ipc(path: string): Endpoint {
  return { kind: "ipc", path, words: `ipc:${path}` };
}

function parse(api: string, target: Target, environ: Environment): Endpoint {
  if (api.startsWith("ipc:") && api.length > "ipc:".length && !api.includes("\0")) return ipc(api.slice("ipc:".length));
  return authorized(parseHttp(api, "ipc:/path or http://host:port"), target, environ);
}

/** What `api.json` says, which a daemon keeps there while its API listens. */
function fromFile(path: string, target: Target, onlyHttp: boolean, environ: Environment): Candidate {
  let found: Record<string, unknown>;
  try {
    found = record(JSON.parse(readFileSync(path, "utf8")));
  } catch (error) {
    const reason = error instanceof SyntaxError ? `not readable as JSON (${error.message})` : reasonOf(error);
    return { label: path, reason };
  }
  const { ipc: socket, http, pid } = found;
  if (typeof socket === "string" && socket && !onlyHttp) return { label: `${socket} (from ${path})`, endpoint: ipc(socket) };
  if (typeof http !== "string" || !http) return { label: path, reason: `names no ${onlyHttp ? "HTTP " : ""}endpoint` };
  // A killed daemon leaves the file, and anybody may listen at its port by now: the token is not for them.
  if (!alive(pid)) return { label: path, reason: `left by a daemon that is gone (pid ${String(pid)})` };
  const label = `${http} (from ${path})`;
  if (http.startsWith("unix:")) {
    const socketPath = http.slice("unix:".length);
    const plain = { ...parseHttp("http://localhost", ""), path: socketPath, words: `http at ${http}` };
    return { label, endpoint: authorized(plain, target, environ) };
  }
  return { label, endpoint: authorized(parseHttp(http.includes("://") ? http : `http://${http}`, ""), target, environ) };
}

/** Whether a process of ours has that number. */
function alive(pid: unknown): boolean {
  if (typeof pid !== "number" || !Number.isSafeInteger(pid) || pid <= 0) return false;
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}

/** The endpoint with the caller's token, FABSTIR_TOKEN's, FABSTIR_TOKEN_FILE's or the data directory's. */
function authorized(endpoint: Endpoint, target: Target, environ: Environment): Endpoint {
  if (target.token !== undefined) return withToken(endpoint, target.token, "given by the caller");
  if (environ["FABSTIR_TOKEN"]) return withToken(endpoint, environ["FABSTIR_TOKEN"], "from FABSTIR_TOKEN");
  const named = environ["FABSTIR_TOKEN_FILE"];
  const path = named || join(dataDirectory(target, environ), "api.token");
  try {
    return withToken(endpoint, readFileSync(path, "utf8").trim(), `from ${path}`);
  } catch (error) {
    if (error instanceof InvalidConfig) throw error;
    if (named) throw new InvalidConfig(`FABSTIR_TOKEN_FILE: ${path}: ${reasonOf(error)}`, "FABSTIR_TOKEN_FILE");
    const missing = (error as { code?: unknown }).code === "ENOENT";
    return missing ? endpoint : withToken(endpoint, undefined, `${path} could not be read: ${reasonOf(error)}`);
  }
}
