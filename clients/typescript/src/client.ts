/** The client: every method of the daemon, events, streams, and protocols that this program answers. */
import { fromBase64, toBase64, toBytes, type Bytes } from "./bytes.js";
import { Connection } from "./connection.js";
import {
  ClientTimeout, Closed, type FabstirError, InvalidConfig, isFabstirError, record,
} from "./errors.js";
import { Emitter } from "./emitter.js";
import { EventStream, type EventsOptions } from "./events.js";
import {
  Methods, type CallOptions, type EventType, type Method, type MethodTypes, type RequestResult,
} from "./generated/api.js";
import {
  Handling, type HandleOptions, type RequestHandler, type RequestHandleOptions, type StreamHandler,
  type StreamHandleOptions,
} from "./handling.js";
import { Liveness } from "./liveness.js";
import type { Opened, Pipe, PipeRequest, Target } from "./platform.js";
import { platform } from "./platform-default.js";
import { Stream } from "./stream.js";

/** ms before a connection is made again, at first and at most. */
const FIRST_DELAY = 50;
const LAST_DELAY = 2_000;
/** How long opening a stream may take, in ms, where nothing is said. */
const OPEN_BOUND = 65_000;
const MARGIN = 5_000;

export type ConnectOptions = Target;

/** What happens to a client itself, besides the events of the daemon. */
export interface ClientEvents {
  /** A connection stands, for the first time or again. */
  connected: [{ again: boolean; version: string | undefined; endpoint: string }];
  /** The connection is gone. Where protocols are handled another one is made at once, else at the next call. */
  disconnected: [error: FabstirError];
  /** Something failed that no call waits for: a handler of a protocol, or taking a protocol up again. */
  error: [error: unknown];
}

export interface OpenStreamOptions {
  /** The longest that dialling and agreeing may take, in ms. */
  timeout?: number | undefined;
  /** Aborts the opening, and resets the stream later. */
  signal?: AbortSignal | undefined;
}

export interface RequestOptions {
  framing?: MethodTypes["request"]["params"]["framing"];
  /** In ms. */
  timeout?: number | undefined;
  signal?: AbortSignal | undefined;
}

/** The answer to a message. */
export type RequestAnswer = Omit<RequestResult, "data"> & { data: Uint8Array };

/** What is asked of the daemon anew on each connection. */
export interface Restorable {
  restore(connection: Connection): Promise<void>;
}

/**
 * Connect to the daemon. Without options it is looked for where FABSTIR_API says, else in the usual places.
 *
 * Rejects with `DaemonUnreachable` where no daemon answers, with `FORBIDDEN` where it refuses the token, with `BadAnswer`
 * where something else answers, and with `InvalidConfig` where a setting is wrong.
 */
export async function connect(options: ConnectOptions = {}): Promise<Client> {
  const client = new Client(options);
  await client.open();
  return client;
}

/**
 * Any number of calls may be in flight. One that finds the connection lost makes a new one; one that was in flight is
 * rejected, with `retryable` where it may be made again. An idle client does not keep a process alive; a call, a reader
 * that waits, and a protocol that is handled do.
 */
export class Client extends Methods {
  readonly #target: Target;
  readonly #liveness = new Liveness();
  readonly #emitter = new Emitter<ClientEvents>();
  readonly #ending = new AbortController();
  readonly #restorables = new Set<Restorable>();
  readonly #handlings = new Map<string, Handling>();
  readonly #eventStreams = new Set<{ close(): void }>();
  readonly #streams = new Set<Stream>();
  readonly #subscribing = new Set<Promise<unknown>>();
  #connection: Connection | undefined;
  #connecting: Promise<Connection> | undefined;
  #again = false;

  /** `connect` is the usual way to make one. This one connects at the first call, or by `open`. */
  constructor(options: ConnectOptions = {}) {
    super();
    this.#target = checked(options);
  }

  /** Connect now; rejects as `connect` does. */
  async open(): Promise<void> {
    await this.#connected();
  }

  /** The daemon's version, once it was connected to. */
  get daemonVersion(): string | undefined {
    return this.#connection?.greeting.version;
  }

  /** Whether `close` was called. */
  get closed(): boolean {
    return this.#ending.signal.aborted;
  }

  on<K extends keyof ClientEvents>(event: K, handler: (...args: ClientEvents[K]) => unknown): this {
    this.#emitter.on(event, handler);
    return this;
  }

  once<K extends keyof ClientEvents>(event: K, handler: (...args: ClientEvents[K]) => unknown): this {
    this.#emitter.once(event, handler);
    return this;
  }

  off<K extends keyof ClientEvents>(event: K, handler: (...args: ClientEvents[K]) => unknown): this {
    this.#emitter.off(event, handler);
    return this;
  }

  /**
   * End everything: calls in flight are rejected, iterations of events end, open streams are closed and protocols are no
   * longer handled.
   */
  async close(): Promise<void> {
    if (this.closed) return;
    this.#ending.abort();
    for (const events of [...this.#eventStreams]) events.close();
    for (const stream of [...this.#streams]) await stream.close();
    for (const _ of this.#restorables) this.#liveness.release();
    this.#restorables.clear();
    this.#handlings.clear();
    this.#connection?.close();
  }

  // ---- Calls

  /** Call any method, with its parameters by name or by position. */
  override async call<M extends Method>(
    method: M, params?: MethodTypes[M]["params"] | MethodTypes[M]["args"], options?: CallOptions,
  ): Promise<MethodTypes[M]["result"]> {
    const connection = await this.#ready(options?.signal);
    return (await connection.request(method, params ?? [], options)) as MethodTypes[M]["result"];
  }

  /** Send a peer one message on a protocol, and read one back. */
  async request(peerId: string, protocol: string, data: Bytes, options: RequestOptions = {}): Promise<RequestAnswer> {
    const { framing, timeout, signal } = options;
    const params = { peerId, protocol, data: toBase64(toBytes(data)), framing, timeout };
    const result = await this.call("request", params, { signal });
    return { ...result, data: fromBase64(result.data) };
  }

  // ---- Events

  /**
   * What happens, from now on or from where `after` and `epoch` say, as an async iterable: over lost connections and
   * restarts of the daemon. Where something was missed, an item `{type: "lagged"}` stands in its place. Calls that are
   * made after this wait until the subscription stands, so that nothing they cause is missed.
   */
  events<T extends EventType = EventType>(options: EventsOptions<T> = {}): EventStream<T> {
    if (this.closed) throw new Closed();
    const events = new EventStream(this.#target, options, {
      ended: (ended) => void this.#eventStreams.delete(ended),
    });
    if (!events.over) this.#eventStreams.add(events);
    const standing: Promise<unknown> = events.ready().catch(() => {}).finally(() => this.#subscribing.delete(standing));
    this.#subscribing.add(standing);
    return events;
  }

  // ---- Streams

  /**
   * Open a stream to a peer on a protocol, or on the first of several that the peer speaks. A peer that is known and not
   * connected is dialled. Rejects with `STREAM_FAILED`, `PEER_NOT_FOUND` or `DIAL_FAILED` among others.
   */
  async openStream(
    peerId: string, protocol: string | readonly string[], options: OpenStreamOptions = {},
  ): Promise<Stream> {
    const { timeout, signal } = options;
    const protocols = typeof protocol === "string" ? [protocol] : [...protocol];
    if (protocols.length === 0) throw new InvalidConfig("openStream needs a protocol", "protocol");
    const request: PipeRequest = { method: "stream.open", peerId, protocols, ...(timeout === undefined ? {} : { timeout }) };
    return this.#pipe(request, "outbound", timeout === undefined ? OPEN_BOUND : timeout + MARGIN, signal);
  }

  /**
   * Answer peers on a protocol. With `mode: "stream"`, the default, the handler is given each stream; one whose promise
   * settles has its stream closed. With `mode: "message"` it is given each message, and returns the answer. What a
   * handler throws resets the stream and is an `error` event of the client.
   */
  handle(protocol: string, handler: StreamHandler, options?: StreamHandleOptions): Promise<Handling>;
  handle(protocol: string, handler: RequestHandler, options: RequestHandleOptions): Promise<Handling>;
  async handle(
    protocol: string, handler: StreamHandler | RequestHandler, options: HandleOptions = {},
  ): Promise<Handling> {
    if (this.#handlings.has(protocol)) throw new InvalidConfig(`this client handles ${protocol} already`, "protocol");
    const handling = new Handling(protocol, handler as (argument: never) => unknown, options, {
      accept: (streamId, signal) => this.#pipe({ method: "stream.accept", streamId }, "inbound", OPEN_BOUND, signal, false),
      failed: (error) => void this.#emitter.emit("error", error),
      closed: async () => {
        this.#handlings.delete(protocol);
        this.drop(handling);
        const connection = this.#connection;
        if (connection !== undefined) await connection.request("protocol.unhandle", { protocol }).catch(() => {});
      },
    });
    this.#handlings.set(protocol, handling);
    try {
      await this.keep(handling);
    } catch (error) {
      this.#handlings.delete(protocol);
      throw error;
    }
    return handling;
  }

  // ---- What is asked for anew on each connection

  /** Ask for it now, and again on each later connection, until `drop`. Rejects where it fails now. */
  async keep(one: Restorable): Promise<void> {
    const connection = await this.#ready();
    await one.restore(connection);
    if (this.closed) throw new Closed();
    this.#restorables.add(one);
    this.#liveness.hold();
    if (connection.closed) void this.#reconnect();
  }

  drop(one: Restorable): void {
    if (this.#restorables.delete(one)) this.#liveness.release();
  }

  // ------------------------------------------------------------------------------------------------------------------

  /** A connection, on which everything that happens after this is seen by the iterations that were asked for before. */
  async #ready(signal?: AbortSignal): Promise<Connection> {
    while (this.#subscribing.size > 0) await abortable(Promise.all(this.#subscribing), signal);
    return abortable(this.#connected(), signal);
  }

  async #connected(): Promise<Connection> {
    if (this.closed) throw new Closed();
    if (this.#connection !== undefined && !this.#connection.closed) return this.#connection;
    this.#connecting ??= this.#open().finally(() => (this.#connecting = undefined));
    return this.#connecting;
  }

  async #open(): Promise<Connection> {
    const connection = await Connection.open(this.#target, this.#liveness, {
      notified: (method, params) => this.#notified(method, params),
      closed: (error, lost) => this.#lost(lost, error),
    });
    if (this.closed) {
      connection.close();
      throw new Closed();
    }
    this.#connection = connection;
    for (const one of this.#restorables) void this.#restore(one, connection);
    const { version } = connection.greeting;
    this.#emitter.emit("connected", { again: this.#again, version, endpoint: connection.endpoint.words });
    this.#again = true;
    return connection;
  }

  #lost(connection: Connection, error: FabstirError): void {
    if (this.#connection !== connection) return;
    this.#connection = undefined;
    this.#emitter.emit("disconnected", error);
    if (this.#restorables.size > 0) void this.#reconnect();
  }

  async #reconnect(): Promise<void> {
    let delay = FIRST_DELAY;
    while (!this.closed && this.#restorables.size > 0) {
      try {
        await this.#connected();
        return;
      } catch (error) {
        if (!isFabstirError(error) || !error.retryable) this.#emitter.emit("error", error);
      }
      await this.#liveness.sleep(delay, this.#ending.signal);
      delay = Math.min(delay * 2, LAST_DELAY);
    }
  }

  /** Until it succeeds, is dropped, or the connection is lost, after which it is tried on the next. */
  async #restore(one: Restorable, connection: Connection): Promise<void> {
    let delay = FIRST_DELAY;
    while (this.#restorables.has(one) && !connection.closed) {
      try {
        await one.restore(connection);
        return;
      } catch (error) {
        if (connection.closed) return;
        // The daemon may not have noticed yet that the old connection is gone.
        if (delay > FIRST_DELAY) this.#emitter.emit("error", error);
      }
      await this.#liveness.sleep(delay, this.#ending.signal);
      delay = Math.min(delay * 2, LAST_DELAY);
    }
  }

  #notified(method: string, params: Record<string, unknown>): void {
    const { protocol, requestId } = params;
    if (method === "protocol.ended") {
      for (const handling of this.#handlings.values()) handling.requestEnded(String(requestId));
    } else if (typeof protocol === "string") this.#handlings.get(protocol)?.notified(method, params);
  }

  /** A connection of its own becomes the stream. */
  async #pipe(
    request: PipeRequest, direction: "inbound" | "outbound", bound: number, signal: AbortSignal | undefined, lasting = true,
  ): Promise<Stream> {
    const { endpoint } = await this.#ready(signal);
    const aborting = new AbortController();
    const abort = () => aborting.abort(signal?.reason);
    const end = () => aborting.abort(new Closed());
    signal?.addEventListener("abort", abort);
    if (signal?.aborted) abort();
    this.#ending.signal.addEventListener("abort", end);
    const cancel = this.#liveness.timer(bound, () =>
      aborting.abort(
        new ClientTimeout("CLIENT_TIMEOUT", `the stream was not opened within ${bound / 1000} s`, {
          method: request.method, timeout: bound,
        }, true),
      ),
    );
    this.#liveness.hold();
    let made: { opened: Opened; pipe: Pipe };
    try {
      made = await platform.openPipe(endpoint, request, aborting.signal);
    } catch (error) {
      throw aborting.signal.aborted ? aborting.signal.reason : error;
    } finally {
      this.#liveness.release();
      cancel();
      signal?.removeEventListener("abort", abort);
      this.#ending.signal.removeEventListener("abort", end);
    }
    const { opened, pipe } = made;
    const stream = new Stream(opened, direction, pipe, {
      outcome: (streamId) => this.#outcome(streamId),
      reset: async (streamId) => void (await this.#raw("stream.reset", { streamId })),
      ended: (ended) => void this.#streams.delete(ended),
    }, lasting ? signal : undefined);
    this.#streams.add(stream);
    return stream;
  }

  /** How a stream ended: undefined while it is open, `unknown` where the daemon does not know it. */
  async #outcome(streamId: string): Promise<string | undefined> {
    const listed = await this.#raw("stream.list", {});
    const found = Array.isArray(listed) ? listed.find((one) => record(one)["streamId"] === streamId) : undefined;
    const outcome = record(found)["outcome"];
    if (found === undefined) return "unknown";
    return typeof outcome === "string" ? outcome : undefined;
  }

  async #raw(method: string, params: object): Promise<unknown> {
    return (await this.#connected()).request(method, params);
  }
}

function checked(options: ConnectOptions): Target {
  for (const [name, value] of Object.entries(options)) {
    if (!["api", "dataDir", "token"].includes(name)) {
      throw new InvalidConfig(`unknown option ${name}; known: api, dataDir, token`, name);
    }
    if (value !== undefined && typeof value !== "string") throw new InvalidConfig(`${name} must be a string`, name);
  }
  return { ...options };
}

/** The promise, or the signal's reason where that is sooner. */
function abortable<R>(promise: Promise<R>, signal: AbortSignal | undefined): Promise<R> {
  if (signal === undefined) return promise;
  return new Promise((resolve, reject) => {
    const abort = () => reject(signal.reason);
    if (signal.aborted) abort();
    signal.addEventListener("abort", abort);
    promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", abort));
  });
}
