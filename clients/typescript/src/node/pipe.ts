/** A stream over a socket: the local end of a stream is a connection of its own. */
import { Duplex } from "node:stream";
import type { Socket } from "node:net";
import { BadAnswer, ConnectionLost, fromErrorObject, record } from "../errors.js";
import { asOpened, asQuery } from "../pipe-request.js";
import type { DuplexSource, Endpoint, Opened, Pipe, PipeRequest } from "../platform.js";
import { connectUnix } from "./ipc.js";
import { lostBy } from "./system.js";
import { upgrade } from "./upgrade.js";

const NEWLINE = 0x0a;
const MAX_ANSWER = 1024 * 1024;
const READ_AHEAD = 64 * 1024;
const TURN = 32;

/** Over a Unix socket: one line each way, and whatever follows its newline is the stream. */
export async function openIpcPipe(
  path: string, request: PipeRequest, signal: AbortSignal,
): Promise<{ opened: Opened; pipe: Pipe }> {
  const socket = await connectUnix(path);
  const abort = () => socket.destroy(asError(signal.reason));
  signal.addEventListener("abort", abort);
  try {
    signal.throwIfAborted();
    socket.write(JSON.stringify({ jsonrpc: "2.0", id: 1, ...asCall(request) }) + "\n");
    const answer = await firstLine(socket);
    if (answer["error"] !== undefined) throw fromErrorObject(answer["error"]);
    return { opened: asOpened(answer["result"]), pipe: new SocketPipe(socket) };
  } catch (error) {
    socket.destroy();
    if (signal.aborted) throw signal.reason;
    throw lostBy(error);
  } finally {
    signal.removeEventListener("abort", abort);
  }
}

export async function openHttpPipe(
  endpoint: Extract<Endpoint, { kind: "http" }>, request: PipeRequest, signal: AbortSignal,
): Promise<{ opened: Opened; pipe: Pipe }> {
  const path = `/stream?${asQuery(request)}`;
  const { response, socket, head } = await upgrade(endpoint, path, { upgrade: "fabstir-stream" }, undefined, signal);
  const told = (name: string) => String(response.headers[name] ?? "");
  const opened = asOpened({
    streamId: told("fabstir-stream-id"), peerId: told("fabstir-peer-id"), protocol: told("fabstir-protocol"),
  });
  socket.allowHalfOpen = true;
  if (head.length > 0) socket.unshift(head);
  return { opened, pipe: new SocketPipe(socket) };
}

function asCall(request: PipeRequest): { method: string; params: Record<string, unknown> } {
  if (request.method === "stream.accept") return { method: request.method, params: { streamId: request.streamId } };
  const { method, peerId, protocols, timeout } = request;
  const protocol = protocols.length === 1 ? protocols[0] : protocols;
  return { method, params: { peerId, protocol, ...(timeout === undefined ? {} : { timeout }) } };
}

function asError(reason: unknown): Error {
  return reason instanceof Error ? reason : new Error(String(reason));
}

/** The answer; what follows its newline goes back into the socket, which is left paused. */
function firstLine(socket: Socket): Promise<Record<string, unknown>> {
  return new Promise((resolve, reject) => {
    let received = Buffer.alloc(0);
    const finish = (act: () => void) => {
      socket.off("data", take).off("error", fail).off("end", ended).off("close", ended);
      act();
    };
    const fail = (error: unknown) => finish(() => reject(error));
    const ended = () => fail(new ConnectionLost("the daemon closed the connection before it answered"));
    const take = (chunk: Buffer) => {
      received = Buffer.concat([received, chunk]);
      const end = received.indexOf(NEWLINE);
      if (end < 0) {
        if (received.length > MAX_ANSWER) fail(new BadAnswer("the daemon's answer to a stream is too long"));
        return;
      }
      socket.pause();
      finish(() => {
        try {
          const answer = record(JSON.parse(received.toString("utf8", 0, end)));
          if (end + 1 < received.length) socket.unshift(received.subarray(end + 1));
          resolve(answer);
        } catch {
          reject(new BadAnswer("the daemon's answer to a stream is not JSON"));
        }
      });
    };
    socket.on("data", take).on("error", fail).on("end", ended).on("close", ended);
  });
}

class SocketPipe implements Pipe {
  /** Of a kill -9, and over a Unix socket of most resets, nothing is seen but an end. */
  readonly tellsResets = false;
  readonly ended: Promise<void>;
  readonly #chunks: Buffer[] = [];
  #unread = 0;
  #writes = 0;
  #ended = false;
  #error: Error | undefined;
  #wake: (() => void) | undefined;

  constructor(private readonly socket: Socket) {
    const wake = () => this.#wake?.();
    this.ended = new Promise((resolve) => {
      socket.on("end", () => {
        this.#ended = true;
        wake();
        resolve();
      });
    });
    socket.on("error", (error) => {
      this.#error = error;
      wake();
    });
    socket.on("close", wake);
    // Read ahead a little, so that an end is seen when it comes; beyond that the peer waits.
    socket.on("data", (chunk: Buffer) => {
      this.#chunks.push(chunk);
      this.#unread += chunk.length;
      if (this.#unread >= READ_AHEAD) socket.pause();
      wake();
    });
    socket.resume();
    socket.unref();
  }

  async read(): Promise<Uint8Array | null> {
    for (;;) {
      const chunk = this.#chunks.shift();
      if (chunk !== undefined) {
        this.#unread -= chunk.length;
        if (this.#unread < READ_AHEAD) this.socket.resume();
        return chunk;
      }
      if (this.#error !== undefined) throw this.#error;
      if (this.#ended) return null;
      if (this.socket.destroyed) throw new ConnectionLost("the stream was closed");
      await new Promise<void>((resolve) => (this.#wake = resolve));
      this.#wake = undefined;
    }
  }

  async write(data: Uint8Array): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      if (this.socket.destroyed) return reject(this.#error ?? new ConnectionLost("the stream was closed"));
      this.socket.write(data, (error) => (error ? reject(error) : resolve()));
    });
    // What the kernel takes at once settles without a turn of the event loop: a loop of small writes would starve it.
    this.#writes += 1;
    if (this.#writes % TURN === 0) await new Promise((resolve) => setImmediate(resolve));
  }

  end(): Promise<void> {
    return new Promise((resolve, reject) => {
      if (this.socket.destroyed) return reject(this.#error ?? new ConnectionLost("the stream was closed"));
      this.socket.once("error", reject);
      this.socket.end(() => {
        this.socket.off("error", reject);
        resolve();
      });
    });
  }

  destroy(): void {
    this.socket.destroy();
  }

  ref(): void {
    this.socket.ref();
  }

  unref(): void {
    this.socket.unref();
  }
}

/** Node's own form of a stream. */
export function duplex(stream: DuplexSource): Duplex {
  const told = (done: (error?: Error | null) => void) => [() => done(), (error: unknown) => done(asError(error))] as const;
  return new Duplex({
    read() {
      stream.read().then((chunk) => this.push(chunk), (error: unknown) => this.destroy(asError(error)));
    },
    write(chunk: Uint8Array, _encoding, done) {
      stream.write(chunk).then(...told(done));
    },
    final(done) {
      stream.end().then(...told(done));
    },
    destroy(error, done) {
      if (error !== null || !this.readableEnded || !this.writableFinished) stream.reset();
      done(error);
    },
  });
}
