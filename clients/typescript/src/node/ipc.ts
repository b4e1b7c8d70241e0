/** Lines of JSON over a Unix socket. */
import { createConnection, type Socket } from "node:net";
import { BadAnswer, ConnectionLost } from "../errors.js";
import { CONNECT_TIMEOUT, MAX_TEXT, type Wire, type WireListener } from "../platform.js";
import { TimedOut, lostBy } from "./system.js";

const NEWLINE = 0x0a;

/** Cuts what comes into lines, none longer than `limit` bytes. */
export class Lines {
  #parts: Buffer[] = [];
  #size = 0;

  constructor(private readonly limit: number) {}

  /** The lines that end in this chunk. Throws `BadAnswer` at one that is too long. */
  *feed(chunk: Buffer): Generator<string> {
    let from = 0;
    for (let at = chunk.indexOf(NEWLINE); at >= 0; at = chunk.indexOf(NEWLINE, from)) {
      this.#keep(chunk.subarray(from, at));
      const line = this.#parts.length === 1 ? this.#parts[0] as Buffer : Buffer.concat(this.#parts);
      this.#parts = [];
      this.#size = 0;
      from = at + 1;
      yield line.toString("utf8");
    }
    if (from < chunk.length) this.#keep(chunk.subarray(from));
  }

  #keep(part: Buffer): void {
    this.#size += part.length;
    if (this.#size > this.limit) throw new BadAnswer(`a line of more than ${this.limit} bytes came from the daemon`);
    this.#parts.push(part);
  }
}

/** A connected socket; it keeps the process alive. Rejects with the system's error. */
export function connectUnix(path: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = createConnection({ path, allowHalfOpen: true });
    const timer = setTimeout(() => socket.destroy(new TimedOut()), CONNECT_TIMEOUT);
    socket.once("error", (error) => {
      clearTimeout(timer);
      reject(error);
    });
    socket.once("connect", () => {
      clearTimeout(timer);
      socket.removeAllListeners("error");
      resolve(socket);
    });
  });
}

export async function openIpcWire(path: string, listener: WireListener): Promise<Wire> {
  const socket = await connectUnix(path);
  const lines = new Lines(MAX_TEXT);
  let open = true;

  function close(): void {
    open = false;
    socket.destroy();
  }
  function end(error: unknown): void {
    if (!open) return;
    close();
    listener.closed(lostBy(error));
  }
  socket.on("data", (chunk: Buffer) => {
    try {
      for (const line of lines.feed(chunk)) {
        if (!open) return; // a listener has closed it
        if (line.trim() !== "") listener.message(line);
      }
    } catch (error) {
      end(error);
    }
  });
  socket.on("error", end);
  socket.on("end", () => end(new ConnectionLost("the daemon closed the connection")));
  socket.on("close", () => end(new ConnectionLost("the connection to the daemon was closed")));
  socket.unref();
  return {
    send: (text) => void (open && socket.write(text + "\n")),
    close,
    pause: () => (socket.pause(), true),
    resume: () => void socket.resume(),
    ref: () => socket.ref(),
    unref: () => socket.unref(),
  };
}
