/** Protocols that this program answers: streams as they are, or whole messages. */
import { fromBase64, toBase64, toBytes, type Bytes } from "./bytes.js";
import type { Connection } from "./connection.js";
import type { MethodTypes } from "./generated/api.js";
import type { Stream } from "./stream.js";

type Params = MethodTypes["protocol.handle"]["params"];
type Framing = NonNullable<Params["framing"]>;

/** A peer's message. */
export interface IncomingRequest {
  readonly requestId: string;
  readonly peerId: string;
  readonly protocol: string;
  readonly data: Uint8Array;
  /** The instant, in ms since the Unix epoch, until which it waits for an answer. */
  readonly deadline: number;
  /** Aborted when nobody waits for the answer any more. */
  readonly signal: AbortSignal;
}

export type StreamHandler = (stream: Stream) => unknown;
export type RequestHandler = (request: IncomingRequest) => Bytes | Promise<Bytes>;

export interface StreamHandleOptions {
  mode?: "stream" | undefined;
  /** Streams that may wait to be accepted; 16 where it is left out. */
  backlog?: number | undefined;
  /** How long one may wait, in ms. */
  acceptTimeout?: number | undefined;
  /** Others may handle it too; peers' streams then go round. */
  shared?: boolean | undefined;
}

export interface RequestHandleOptions {
  mode: "message";
  framing?: Framing | undefined;
  /** How long a message waits for its answer, in ms. */
  deadline?: number | undefined;
  shared?: boolean | undefined;
}

export type HandleOptions = StreamHandleOptions | RequestHandleOptions;

/** What handling needs of its client. */
export interface HandlingOwner {
  accept(streamId: string, signal: AbortSignal): Promise<Stream>;
  failed(error: unknown): void;
  closed(handling: Handling): Promise<void>;
}

/** A protocol that is handled, until `close`; over lost connections, too. */
export class Handling {
  readonly protocol: string;
  readonly #handler: (argument: never) => unknown;
  readonly #options: HandleOptions;
  readonly #owner: HandlingOwner;
  readonly #waiting = new Map<string, AbortController>();
  readonly #ending = new AbortController();
  #connection: Connection | undefined;

  /** Made by `Client.handle`. */
  constructor(protocol: string, handler: (argument: never) => unknown, options: HandleOptions, owner: HandlingOwner) {
    this.protocol = protocol;
    this.#handler = handler;
    this.#options = options;
    this.#owner = owner;
  }

  /** Peers' streams and messages are refused from now on; streams that are open stay so. */
  async close(): Promise<void> {
    if (this.#ending.signal.aborted) return;
    this.#ending.abort();
    await this.#owner.closed(this);
  }

  /** Ask the daemon for it, on a new connection. */
  async restore(connection: Connection): Promise<void> {
    const { mode = "stream", ...options } = this.#options;
    await connection.request("protocol.handle", { protocol: this.protocol, mode, ...options });
    this.#connection = connection;
  }

  /** A notification for it. */
  notified(method: string, params: Record<string, unknown>): void {
    if (this.#ending.signal.aborted) return;
    if (method === "stream.incoming" && typeof params["streamId"] === "string") void this.#incoming(params["streamId"]);
    if (method === "protocol.request" && typeof params["requestId"] === "string") void this.#request(params);
  }

  /** Nobody waits for the answer to a message any more. */
  requestEnded(requestId: string): void {
    this.#waiting.get(requestId)?.abort();
  }

  async #incoming(streamId: string): Promise<void> {
    let stream: Stream;
    try {
      stream = await this.#owner.accept(streamId, this.#ending.signal);
    } catch (error) {
      if (!this.#ending.signal.aborted) this.#owner.failed(error);
      return;
    }
    try {
      const result = this.#handler(stream as never);
      if (!isThenable(result)) return; // it keeps the stream
      await result;
      await stream.close();
    } catch (error) {
      const ours = !stream.closed;
      await stream.reset();
      if (ours) this.#owner.failed(error);
    }
  }

  async #request(params: Record<string, unknown>): Promise<void> {
    const connection = this.#connection;
    const requestId = String(params["requestId"]);
    if (connection === undefined) return;
    const aborting = new AbortController();
    this.#waiting.set(requestId, aborting);
    try {
      let data = params["data"];
      if (typeof data !== "string") {
        data = (await connection.request("protocol.read", { requestId }) as { data?: unknown }).data;
      }
      const answer = await this.#handler({
        requestId,
        peerId: String(params["peerId"]),
        protocol: this.protocol,
        data: fromBase64(String(data)),
        deadline: Number(params["deadline"]),
        signal: aborting.signal,
      } as never);
      if (aborting.signal.aborted) return;
      await connection.request("protocol.respond", { requestId, data: toBase64(toBytes(answer as Bytes)) });
    } catch (error) {
      if (!aborting.signal.aborted && !connection.closed) this.#owner.failed(error);
    } finally {
      this.#waiting.delete(requestId);
    }
  }
}

function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof value === "object" && value !== null && "then" in value;
}

