/**
 * The SDK's `P2PBridgeClient` over the daemon: nodes, and JSON messages between the bridge clients of two daemons. The
 * daemon serves it where `[api] bridge = true`.
 */
import { closeError } from "./close-error.js";
import {
  ClientTimeout, Closed, ConnectionLost, type FabstirError, fromErrorObject, InvalidConfig, isFabstirError, record,
} from "./errors.js";
import type { BridgeNodes, BridgeSent, BridgeStatus } from "./generated/api.js";
import { firstThatAnswers } from "./connection.js";
import { Liveness } from "./liveness.js";
import type { Target, Wire } from "./platform.js";
import { platform } from "./platform-default.js";

const BOUND = 30_000;
const FIRST_DELAY = 50;
const LAST_DELAY = 2_000;

/** A message; `from`, which the daemon writes, is the peer id that the other side has proven. */
export interface P2PMessage {
  type: string;
  payload: unknown;
  from?: string;
  timestamp?: number;
}

export interface BridgeFilter {
  capabilities?: string[];
  minReputation?: number;
}

type Handler = (message: P2PMessage) => unknown;

/**
 * Nothing but the bridge's three methods goes over its WebSocket, as the daemon demands of whoever is to get messages.
 * A connection that is lost is made again; handlers stay. From `connect` to `disconnect` it keeps the process alive.
 */
export class P2PBridgeClient {
  readonly #handlers = new Set<Handler>();
  readonly #liveness = new Liveness();
  readonly #pending = new Map<string, (outcome: { result: unknown } | { error: FabstirError }) => void>();
  #target: Target | undefined;
  #ending = new AbortController();
  #wire: Wire | undefined;
  #lastId = 0;

  /** `endpoint` is `ws://host:port/ws?token=…`, as for the SDK, or what `connect` of this package takes. */
  async connect(endpoint: string | Target = {}): Promise<void> {
    if (this.#target !== undefined) throw new InvalidConfig("Already connected to P2P service");
    this.#target = typeof endpoint === "string" ? fromUrl(endpoint) : endpoint;
    this.#ending = new AbortController();
    try {
      await this.#open(this.#target);
      this.#liveness.hold();
    } catch (error) {
      this.#target = undefined;
      throw error;
    }
  }

  async disconnect(): Promise<void> {
    if (this.#target === undefined) return;
    this.#target = undefined;
    this.#liveness.release();
    this.#ending.abort();
    this.#drop(new Closed());
  }

  /** Whether the connection stands. */
  isAvailable(): boolean {
    return this.#wire !== undefined;
  }

  /** With capabilities, nodes that provide all of them; without, the connected peers. */
  async discoverNodes(filter?: BridgeFilter): Promise<BridgeNodes> {
    return (await this.#call("discover", filter === undefined ? {} : { filter })) as BridgeNodes;
  }

  /** To every bridge client of the peer's daemon; rejects where there is none. */
  async sendMessage(peerId: string, message: P2PMessage): Promise<BridgeSent> {
    return (await this.#call("sendMessage", { peerId, message })) as BridgeSent;
  }

  onMessage(handler: Handler): void {
    this.#handlers.add(handler);
  }

  offMessage(handler: Handler): void {
    this.#handlers.delete(handler);
  }

  async getStatus(): Promise<BridgeStatus | { connected: false; connections: number }> {
    if (!this.isAvailable()) return { connected: false, connections: 0 };
    return (await this.#call("getStatus", {})) as BridgeStatus;
  }

  // ------------------------------------------------------------------------------------------------------------------

  #call(method: string, params: object): Promise<unknown> {
    return new Promise((resolve, reject) => {
      if (this.#wire === undefined) return reject(new ConnectionLost("Not connected to P2P service", { method, carriedOut: "no" }));
      const id = String(++this.#lastId);
      this.#liveness.hold();
      const done = () => {
        cancel();
        this.#pending.delete(id);
        this.#liveness.release();
      };
      const cancel = this.#liveness.timer(BOUND, () => {
        done();
        const said = `the daemon did not answer ${method} within ${BOUND / 1000} s`;
        reject(new ClientTimeout("CLIENT_TIMEOUT", said, { method, timeout: BOUND }, method !== "sendMessage"));
      });
      this.#pending.set(id, (outcome) => {
        done();
        if ("error" in outcome) reject(outcome.error);
        else resolve(outcome.result);
      });
      this.#wire.send(JSON.stringify({ jsonrpc: "2.0", id, method, params }));
    });
  }

  async #open(target: Target): Promise<void> {
    let wire: Wire | undefined;
    let early: FabstirError | undefined;
    wire = await firstThatAnswers(target, async (endpoint) => {
      if (endpoint.kind === "ipc") throw new ConnectionLost("the bridge needs HTTP, and this is a Unix socket");
      return platform.openWire(endpoint, {
        message: (text) => this.#received(text),
        closed: (error) => (wire === undefined ? (early = error) : this.#lost(wire, error)),
      });
    }, true);
    if (this.#target === undefined) {
      wire.close();
      throw new Closed();
    }
    if (early !== undefined) throw early;
    this.#wire = wire;
    this.#liveness.attach(wire);
  }

  #received(text: string): void {
    let message: Record<string, unknown>;
    try {
      message = record(JSON.parse(text));
    } catch {
      return this.#lost(this.#wire, closeError(1007, "what came is not JSON"));
    }
    if (message["type"] === "p2p_message") {
      for (const handler of this.#handlers) {
        try {
          handler(message["data"] as P2PMessage);
        } catch (error) {
          console.error("a handler failed:", error);
        }
      }
      return;
    }
    const settle = this.#pending.get(String(message["id"]));
    if (message["error"] !== undefined) settle?.({ error: fromErrorObject(message["error"]) });
    else settle?.({ result: message["result"] });
  }

  #lost(wire: Wire | undefined, error: FabstirError): void {
    if (wire === undefined || this.#wire !== wire) return;
    this.#drop(error);
    void this.#reconnect();
  }

  #drop(error: FabstirError): void {
    if (this.#wire !== undefined) {
      this.#liveness.detach(this.#wire);
      this.#wire.close();
      this.#wire = undefined;
    }
    for (const settle of [...this.#pending.values()]) settle({ error });
  }

  async #reconnect(): Promise<void> {
    let delay = FIRST_DELAY;
    while (this.#target !== undefined) {
      try {
        return await this.#open(this.#target);
      } catch (error) {
        if (isFabstirError(error) && error.code === "CLOSED") return;
      }
      await this.#liveness.sleep(delay, this.#ending.signal);
      delay = Math.min(delay * 2, LAST_DELAY);
    }
  }
}

/** The SDK hands over the whole address of the WebSocket, the token in its query. */
function fromUrl(address: string): Target {
  let url: URL;
  try {
    url = new URL(address);
  } catch {
    throw new InvalidConfig(`${JSON.stringify(address)} is no address; it must be ws://host:port/ws?token=…`, "endpoint");
  }
  const token = url.searchParams.get("token") ?? undefined;
  url.search = "";
  return { api: url.toString(), ...(token === undefined ? {} : { token }) };
}
