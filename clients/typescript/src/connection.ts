/** One connection to the daemon: calls in flight on it, and the notifications that come. */
import {
  BadAnswer, ClientTimeout, Closed, ConnectionLost, DaemonUnreachable, FabstirError, fromErrorObject, harmlessTwice, hasCode,
  InvalidConfig, isFabstirError, record, words,
} from "./errors.js";
import { METHODS, type CallOptions, type MethodNeeds } from "./generated/api.js";
import { Liveness } from "./liveness.js";
import { CONNECT_TIMEOUT, type Endpoint, type Target, type Wire } from "./platform.js";
import { platform } from "./platform-default.js";
import { VERSION } from "./version.js";

/** How long a call may take that has no timeout of its own, in ms. */
const BOUND = 60_000;
/** What a call's own timeout is given on top, for the daemon to say so itself, in ms. */
const MARGIN = 5_000;

export interface ConnectionListener {
  /** A notification, as it came: its method, and its parameters, which are an object. */
  notified(method: string, params: Record<string, unknown>): void;
  /** Once, also before `open` has resolved. */
  closed(error: FabstirError, connection: Connection): void;
}

interface Pending {
  readonly method: string;
  settle(outcome: { result: unknown } | { error: FabstirError }): void;
}

/** What the daemon said of itself when the connection was made; without `epoch` where the token may not ask. */
export interface Greeting {
  readonly version?: string;
  readonly epoch?: string;
}

/** The first endpoint that `open` succeeds with. Rejects with `DaemonUnreachable`, or the daemon's refusal. */
export async function firstThatAnswers<T>(
  target: Target, open: (endpoint: Endpoint) => Promise<T>, http = false,
): Promise<T> {
  const tried: [string, string][] = [];
  for (const candidate of platform.candidates(target, http)) {
    if ("reason" in candidate) {
      tried.push([candidate.label, candidate.reason]);
      continue;
    }
    try {
      return await open(candidate.endpoint);
    } catch (error) {
      if (isFinal(error)) throw error;
      tried.push([candidate.label, platform.describe(error, candidate.endpoint)]);
    }
  }
  throw new DaemonUnreachable(tried, startCommand(target));
}

/** The command that starts a daemon where the caller looks for one. */
function startCommand({ api, dataDir }: Target): string {
  const quoted = (text: string) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'"'"'`)}'`);
  if (api?.startsWith("ipc:")) return `fabstird run --set ${quoted(`api.ipc=${api.slice("ipc:".length)}`)}`;
  return !api && dataDir !== undefined ? `fabstird run --data-dir ${quoted(dataDir)}` : "fabstird run";
}

/** Whether another place will not help: the daemon is there, and refuses. */
function isFinal(error: unknown): boolean {
  return isFabstirError(error) && !["CONNECTION_LOST", "BAD_ANSWER", "CLIENT_TIMEOUT"].includes(error.code);
}

export class Connection {
  readonly endpoint: Endpoint;
  greeting: Greeting = {};
  readonly #wire: Wire;
  readonly #liveness: Liveness;
  readonly #pending = new Map<number, Pending>();
  #lastId = 0;
  #ended: FabstirError | undefined;

  private constructor(endpoint: Endpoint, wire: Wire, liveness: Liveness) {
    this.endpoint = endpoint;
    this.#wire = wire;
    this.#liveness = liveness;
    liveness.attach(wire);
  }

  /** To the first place where a daemon answers. `liveness` says whether it keeps the process alive. */
  static open(target: Target, liveness: Liveness, listener: ConnectionListener): Promise<Connection> {
    return firstThatAnswers(target, (endpoint) => Connection.#openAt(endpoint, liveness, listener));
  }

  static async #openAt(endpoint: Endpoint, liveness: Liveness, listener: ConnectionListener): Promise<Connection> {
    let connection: Connection | undefined;
    let early: FabstirError | undefined;
    const wire = await platform.openWire(endpoint, {
      message: (text) => void (connection && connection.#received(text, listener)),
      closed: (error) => {
        early = error;
        if (connection) connection.#end(error, listener);
      },
    });
    connection = new Connection(endpoint, wire, liveness);
    if (early !== undefined) connection.#end(early, listener);
    await connection.#greet();
    return connection;
  }

  /** Whether it is a daemon that listens there, and which. */
  async #greet(): Promise<void> {
    try {
      const { version, epoch } = record(await this.request("status", [], { timeout: CONNECT_TIMEOUT }));
      if (typeof version !== "string" || typeof epoch !== "string") {
        throw new BadAnswer("what listens there is no fabstird", { endpoint: this.endpoint.words });
      }
      this.greeting = { version, epoch };
    } catch (error) {
      if (hasCode(error, "FORBIDDEN") && this.#ended === undefined) return; // a token that may not ask
      this.close();
      throw error;
    }
  }

  get closed(): boolean {
    return this.#ended !== undefined;
  }

  /** Settles with the result. Rejects with a `FabstirError`, or with the signal's reason. */
  request(
    method: string, params: object, options: CallOptions = {}, onResult?: (result: unknown) => void,
  ): Promise<unknown> {
    return new Promise((resolve, reject) => {
      const { signal } = options;
      if (signal?.aborted) return reject(signal.reason);
      if (this.#ended !== undefined) return reject(this.#lost(method, "no"));
      const id = ++this.#lastId;
      const bound = options.timeout ?? boundOf(method, params);
      let text: string;
      try {
        text = JSON.stringify({ jsonrpc: "2.0", id, method, params });
      } catch (error) {
        return reject(new InvalidConfig(`the parameters of ${method} cannot be written as JSON: ${words(error)}`));
      }
      const done = () => {
        this.#pending.delete(id);
        cancelTimer();
        signal?.removeEventListener("abort", abort);
        this.#liveness.release();
      };
      const abort = () => {
        done();
        reject(signal?.reason);
      };
      this.#liveness.hold();
      const cancelTimer = this.#liveness.timer(bound, () => {
        done();
        const said = `the daemon did not answer ${method} within ${bound / 1000} s`;
        reject(new ClientTimeout("CLIENT_TIMEOUT", said, { method, timeout: bound }, isHarmless(method)));
      });
      signal?.addEventListener("abort", abort);
      this.#pending.set(id, {
        method,
        settle: (outcome) => {
          done();
          if ("error" in outcome) return reject(outcome.error);
          onResult?.(outcome.result);
          resolve(outcome.result);
        },
      });
      this.#wire.send(text);
    });
  }

  pause(): boolean {
    return this.#wire.pause();
  }

  resume(): void {
    this.#wire.resume();
  }

  /** At once; calls in flight are rejected, and `closed` of the listener is not called. */
  close(error: FabstirError = new Closed()): void {
    if (this.#ended !== undefined) return;
    this.#ended = error;
    this.#liveness.detach(this.#wire);
    this.#wire.close();
    this.#settleAll(error);
  }

  #end(error: FabstirError, listener: ConnectionListener): void {
    if (this.#ended !== undefined) return;
    this.#ended = error;
    this.#liveness.detach(this.#wire);
    this.#settleAll(error);
    listener.closed(error, this);
  }

  #settleAll(error: FabstirError): void {
    // An error of one call alone may be its own; of several, nobody knows whose it is.
    const shared = this.#pending.size === 1 && !(error instanceof ConnectionLost) ? error : undefined;
    for (const pending of [...this.#pending.values()]) {
      pending.settle({ error: shared ?? this.#lost(pending.method, "unknown") });
    }
  }

  #lost(method: string, carriedOut: "no" | "unknown"): FabstirError {
    if (this.#ended instanceof Closed) return new Closed({ method });
    const harmless = carriedOut === "no" || isHarmless(method);
    const advice = harmless ? "" : "; the daemon may have carried it out: look before you try again";
    const said = `${this.#ended?.message ?? "the connection is closed"} (during ${method})${advice}`;
    return new ConnectionLost(said, { method, carriedOut }, harmless);
  }

  #received(text: string, listener: ConnectionListener): void {
    let message: Record<string, unknown>;
    try {
      message = record(JSON.parse(text));
    } catch {
      return this.#refuse("what came is not JSON", listener);
    }
    const { id, method } = message;
    if (typeof method === "string") return listener.notified(method, record(message["params"]));
    if (id === null || id === undefined) {
      // It could not even read what we sent, or will not have us.
      if (message["error"] === undefined) return this.#refuse("what came is not JSON-RPC", listener);
      this.#wire.close();
      return this.#end(fromErrorObject(message["error"]), listener);
    }
    const pending = typeof id === "number" ? this.#pending.get(id) : undefined;
    if (pending === undefined) return; // nobody waits for it any more
    if (message["error"] !== undefined) pending.settle({ error: this.#explained(fromErrorObject(message["error"])) });
    else if ("result" in message) pending.settle({ result: message["result"] });
    else pending.settle({ error: new BadAnswer(`the answer to ${pending.method} has neither a result nor an error`) });
  }

  #refuse(reason: string, listener: ConnectionListener): void {
    this.#wire.close();
    this.#end(new BadAnswer(`${this.endpoint.words} is no fabstird: ${reason}`, { endpoint: this.endpoint.words }), listener);
  }

  /** A method that the daemon does not know is one of another version. */
  #explained(error: FabstirError): FabstirError {
    const { version } = this.greeting;
    if (error.code === "METHOD_NOT_FOUND" && version !== undefined && version !== VERSION) {
      error.message += ` (the daemon is version ${version}, this client is made for ${VERSION}: use two of one version)`;
    }
    return error;
  }
}

function isHarmless(method: string): boolean {
  return harmlessTwice(method, NEEDS[method]?.access);
}

const NEEDS: Readonly<Record<string, MethodNeeds | undefined>> = METHODS;

/** A call's own `timeout` and some time for the daemon to say so itself; without one, a minute. */
function boundOf(method: string, params: object): number {
  const place = NEEDS[method]?.params.indexOf("timeout") ?? -1;
  const own: unknown = Array.isArray(params) ? params[place] : record(params)["timeout"];
  return typeof own === "number" && own >= 0 ? own + MARGIN : BOUND;
}
