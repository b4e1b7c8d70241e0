/** A stream to a peer: two ways of bytes, each ended by itself. */
import { toBytes, type Bytes } from "./bytes.js";
import { StreamReset, type StreamOutcome } from "./errors.js";
import { Liveness } from "./liveness.js";
import type { Opened, Pipe } from "./platform.js";
import { platform } from "./platform-default.js";

/** @ts-ignore Node's `Duplex`; without the types of Node it is `any`. */
export type NodeDuplex = import("node:stream").Duplex;

/** What a stream asks of its client. */
export interface StreamOwner {
  /** How the stream ended; undefined while it has not, `unknown` where the daemon does not know. */
  outcome(streamId: string): Promise<string | undefined>;
  reset(streamId: string): Promise<void>;
  ended(stream: Stream): void;
}

/**
 * Iterate over it to read: each step gives some bytes, as they came (in Node a `Buffer`). To leave the loop early is to cancel: the stream is
 * reset. `read` takes single pieces without that. It keeps the process alive only while a read or write waits.
 */
export class Stream implements AsyncIterable<Uint8Array> {
  readonly id: string;
  readonly peerId: string;
  /** The one that was agreed. */
  readonly protocol: string;
  readonly address: string | undefined;
  readonly direction: "inbound" | "outbound";
  readonly #pipe: Pipe;
  readonly #owner: StreamOwner;
  readonly #liveness = new Liveness();
  readonly #aborting = new AbortController();
  #reading: Promise<unknown> = Promise.resolve();
  #asked: Promise<string | undefined> | undefined;
  #readEnded = false;
  #writeEnded = false;
  /** Why nothing works any more. */
  #failure: unknown;

  /** Made by `Client.openStream` and `Client.handle`. */
  constructor(opened: Opened, direction: "inbound" | "outbound", pipe: Pipe, owner: StreamOwner, signal?: AbortSignal) {
    this.id = opened.streamId;
    this.peerId = opened.peerId;
    this.protocol = opened.protocol;
    this.address = opened.address;
    this.direction = opened.direction ?? direction;
    this.#pipe = pipe;
    this.#owner = owner;
    this.#liveness.attach(pipe);
    if (!pipe.tellsResets) void pipe.ended.then(() => void this.#outcome());
    signal?.addEventListener("abort", () => void this.#reset(signal.reason), { signal: this.#aborting.signal });
  }

  /** Whether the peer has ended its side, and all that came before was read. */
  get readEnded(): boolean {
    return this.#readEnded;
  }

  /** Whether we have ended our side. */
  get writeEnded(): boolean {
    return this.#writeEnded;
  }

  /** Whether nothing can come or go any more. */
  get closed(): boolean {
    return this.#failure !== undefined || (this.#readEnded && this.#writeEnded);
  }

  /** The next bytes; null once the peer has ended its side. Throws `StreamReset` where it did not end well. */
  read(): Promise<Uint8Array | null> {
    const next = this.#reading.then(() => this.#read());
    this.#reading = next.catch(() => {});
    return next;
  }

  /** Resolves when there is room for more, so that whoever waits for it writes no faster than the peer reads. */
  async write(data: Bytes): Promise<void> {
    const bytes = toBytes(data);
    await this.#held(async () => {
      this.#usable();
      if (this.#writeEnded) throw new StreamReset("STREAM_RESET", "our side of the stream was ended", this.#told("unknown"));
      try {
        await this.#pipe.write(bytes);
      } catch (error) {
        throw await this.#broken(error);
      }
    });
  }

  /** End our side, after a last write if there is one; the peer's side goes on. */
  async end(data?: Bytes): Promise<void> {
    if (data !== undefined) await this.write(data);
    if (this.#writeEnded) return;
    await this.#held(async () => {
      this.#usable();
      this.#writeEnded = true;
      try {
        await this.#pipe.end();
      } catch (error) {
        throw await this.#broken(error);
      }
      this.#settled();
    });
  }

  /** Break it off, both ways: the peer is told that it was no good end. */
  async reset(): Promise<void> {
    await this.#reset(new StreamReset("STREAM_RESET", "the stream was reset here", this.#told("reset")));
  }

  /** End our side and read no more; what the peer still sends resets the stream. Does not throw. */
  async close(): Promise<void> {
    if (this.#failure !== undefined) return;
    if (!this.#writeEnded) await this.end().catch(() => {});
    if (!this.#readEnded) this.#fail(new StreamReset("STREAM_RESET", "the stream was closed here", this.#told("reset")));
  }

  async *[Symbol.asyncIterator](): AsyncIterableIterator<Uint8Array> {
    try {
      for (let chunk = await this.read(); chunk !== null; chunk = await this.read()) yield chunk;
    } finally {
      if (!this.#readEnded) await this.reset();
    }
  }

  /** The stream as Node's `Duplex`; use one of the two only. Destroying it resets the stream. */
  toDuplex(): NodeDuplex {
    return platform.duplex({
      read: () => this.read(),
      write: (data) => this.write(data),
      end: () => this.end(),
      reset: () => void this.reset(),
    }) as NodeDuplex;
  }

  // ------------------------------------------------------------------------------------------------------------------

  #read(): Promise<Uint8Array | null> {
    return this.#held(async () => {
      if (this.#readEnded) return null;
      this.#usable();
      let chunk: Uint8Array | null;
      try {
        chunk = await this.#pipe.read();
      } catch (error) {
        throw await this.#broken(error);
      }
      this.#usable();
      if (chunk !== null) return chunk;
      await this.#endedWell();
      this.#readEnded = true;
      this.#settled();
      return null;
    });
  }

  /** A socket shows its end, but not always that it was a reset: ask. */
  async #endedWell(): Promise<void> {
    if (this.#pipe.tellsResets) return;
    const outcome = await this.#outcome();
    this.#usable();
    if (outcome !== undefined && outcome !== "ended") throw this.#fail(this.#resetError(outcome));
  }

  /** As it was when the end came: the daemon remembers it for a minute. */
  #outcome(): Promise<string | undefined> {
    this.#asked ??= this.#owner.outcome(this.id).catch(() => "unknown"); // the daemon went, and the stream with it
    return this.#asked;
  }

  async #broken(error: unknown): Promise<unknown> {
    if (this.#failure !== undefined) return this.#failure;
    if (error instanceof StreamReset) return this.#fail(error);
    const outcome = await this.#owner.outcome(this.id).catch(() => "unknown");
    return this.#fail(this.#resetError(outcome === undefined || outcome === "ended" ? "unknown" : outcome));
  }

  #resetError(outcome: string): StreamReset {
    const words = WORDS[outcome] ?? "the stream broke off";
    return new StreamReset("STREAM_RESET", words, this.#told(outcome as StreamOutcome));
  }

  async #reset(reason: unknown): Promise<void> {
    if (this.closed) return;
    // The daemon first: were the socket closed before, the peer would see an end that looks like a good one.
    this.#failure = reason;
    this.#aborting.abort();
    try {
      await this.#held(() => this.#owner.reset(this.id));
    } catch {
      // it has ended by itself, or the daemon is gone
    }
    this.#fail(reason);
  }

  #fail(error: unknown): unknown {
    this.#failure ??= error;
    this.#pipe.destroy();
    this.#over();
    return this.#failure;
  }

  #settled(): void {
    if (!this.#readEnded || !this.#writeEnded) return;
    this.#pipe.destroy();
    this.#over();
  }

  #over(): void {
    this.#aborting.abort();
    this.#liveness.detach(this.#pipe);
    this.#owner.ended(this);
  }

  #usable(): void {
    if (this.#failure !== undefined) throw this.#failure;
  }

  async #held<R>(act: () => Promise<R>): Promise<R> {
    this.#liveness.hold();
    try {
      return await act();
    } finally {
      this.#liveness.release();
    }
  }

  #told(outcome: StreamOutcome): { streamId: string; peerId: string; protocol: string; outcome: StreamOutcome } {
    return { streamId: this.id, peerId: this.peerId, protocol: this.protocol, outcome };
  }
}

const WORDS: Readonly<Record<string, string>> = {
  reset: "the stream was reset here",
  peer_reset: "the peer reset the stream",
  peer_gone: "the peer is gone",
  timeout: "the stream timed out",
  limit: "a limit ended the stream",
  stopped: "the node was stopped",
  shutdown: "the daemon was stopped",
};
