/** Browsers: WebSockets, of which a page can set neither headers nor the pace of reading. */
import { BadAnswer, ConnectionLost, FabstirError, InvalidConfig, StreamReset, words } from "../errors.js";
import { parseHttp, withToken } from "../endpoint.js";
import {
  CONNECT_TIMEOUT, MAX_TEXT, type Candidate, type Endpoint, type Opened, type Pipe, type PipeRequest, type Platform,
  type Target, type Wire, type WireListener,
} from "../platform.js";
import { asOpened, asQuery } from "../pipe-request.js";
import { closeError } from "../close-error.js";

const EXPECTED = "http://host:port";
const NORMAL = 1000;
const RESET = 4000;
/** Bytes of a stream that may lie here unread. A page cannot slow its peer down, so beyond this the stream is reset. */
const MAX_UNREAD = 16 * 1024 * 1024;
/** Bytes that may lie here unsent before a write waits. */
const MAX_UNSENT = 256 * 1024;
const POLL = 10;

function candidates(target: Target): Candidate[] {
  const page = globalThis.location?.origin;
  const api = target.api ?? (page?.startsWith("http") ? page : undefined);
  if (api === undefined) throw new InvalidConfig("in a browser `api` must be given, such as http://127.0.0.1:4780", "api");
  const origin = target.token === undefined ? "none was given; pass `token`" : "given by the caller";
  return [{ label: api, endpoint: withToken(parseHttp(api, EXPECTED), target.token, origin) }];
}

/** An open WebSocket. A page never learns why one was refused. */
function openSocket(endpoint: Endpoint, path: string, signal?: AbortSignal): Promise<WebSocket> {
  if (endpoint.kind !== "http") throw new InvalidConfig("a browser cannot open a Unix socket", "api");
  const scheme = endpoint.scheme === "https:" ? "wss:" : "ws:";
  const url = `${scheme}//${endpoint.host}:${endpoint.port}${endpoint.prefix}${path}`;
  // A subprotocol, since a page cannot set headers and an address ends up in logs.
  const socket = new WebSocket(url, endpoint.token === undefined ? [] : [`fabstir.token.${endpoint.token}`]);
  socket.binaryType = "arraybuffer";
  return new Promise((resolve, reject) => {
    const timer = signal === undefined ? setTimeout(() => fail("no answer in time"), CONNECT_TIMEOUT) : undefined;
    const settle = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
      socket.onopen = socket.onerror = socket.onclose = null;
    };
    const fail = (reason: string) => {
      settle();
      socket.close();
      reject(new BadAnswer(reason, { endpoint: endpoint.words }));
    };
    const abort = () => {
      settle();
      socket.close();
      reject(signal?.reason);
    };
    signal?.addEventListener("abort", abort);
    if (signal?.aborted) return abort();
    socket.onopen = () => {
      settle();
      resolve(socket);
    };
    socket.onerror = socket.onclose = () =>
      fail(
        "the WebSocket was refused, or nobody listens there; the browser does not say which. Is the daemon running, " +
          `the token right, and ${globalThis.location?.origin ?? "this origin"} in [api] allowed_origins?`,
      );
  });
}

async function openWire(endpoint: Endpoint, listener: WireListener): Promise<Wire> {
  const socket = await openSocket(endpoint, "/ws");
  let open = true;
  const end = (error: FabstirError) => {
    if (!open) return;
    open = false;
    socket.close();
    listener.closed(error);
  };
  socket.onmessage = ({ data }: MessageEvent<unknown>) => {
    if (!open) return;
    if (typeof data !== "string") return end(new BadAnswer("the daemon sent a message that is no text"));
    if (data.length > MAX_TEXT) return end(new BadAnswer(`a message of more than ${MAX_TEXT} bytes came`));
    listener.message(data);
  };
  socket.onclose = ({ code, reason }) => end(closeError(code, reason));
  return {
    send: (text) => void (open && socket.send(text)),
    close: () => {
      open = false;
      socket.close(NORMAL);
    },
    pause: () => false,
    resume: () => {},
    ref: () => {},
    unref: () => {},
  };
}

async function openPipe(
  endpoint: Endpoint, request: PipeRequest, signal: AbortSignal,
): Promise<{ opened: Opened; pipe: Pipe }> {
  const socket = await openSocket(endpoint, `/stream?${asQuery(request)}`, signal);
  return new Promise((resolve, reject) => {
    const abort = () => {
      socket.close();
      reject(signal.reason);
    };
    signal.addEventListener("abort", abort);
    socket.onclose = ({ code, reason }) => reject(closeError(code, reason));
    socket.onmessage = ({ data }: MessageEvent<unknown>) => {
      signal.removeEventListener("abort", abort);
      try {
        const opened = asOpened(JSON.parse(String(data)));
        resolve({ opened, pipe: new SocketPipe(socket, opened) });
      } catch (error) {
        socket.close();
        reject(error instanceof FabstirError ? error : new BadAnswer(words(error)));
      }
    };
  });
}

class SocketPipe implements Pipe {
  readonly tellsResets = true;
  readonly ended = new Promise<void>(() => {}); // told by the close code, which comes in its order
  readonly #chunks: Uint8Array[] = [];
  #unread = 0;
  #ended = false;
  #error: FabstirError | undefined;
  #wake: (() => void) | undefined;

  constructor(private readonly socket: WebSocket, private readonly opened: Opened) {
    socket.onmessage = ({ data }: MessageEvent<unknown>) => this.#take(data);
    socket.onclose = ({ code, reason }) => this.#closed(code, reason);
  }

  async read(): Promise<Uint8Array | null> {
    for (;;) {
      const chunk = this.#chunks.shift();
      if (chunk !== undefined) {
        this.#unread -= chunk.length;
        return chunk;
      }
      if (this.#error !== undefined) throw this.#error;
      if (this.#ended) return null;
      await new Promise<void>((resolve) => (this.#wake = resolve));
      this.#wake = undefined;
    }
  }

  async write(data: Uint8Array): Promise<void> {
    this.#writable();
    this.socket.send(data as Uint8Array<ArrayBuffer>);
    while (this.socket.bufferedAmount > MAX_UNSENT) {
      await new Promise((resolve) => setTimeout(resolve, POLL));
      this.#writable();
    }
  }

  async end(): Promise<void> {
    this.#writable();
    this.socket.send('{"end":true}');
  }

  destroy(): void {
    this.#error ??= new ConnectionLost("the stream was closed");
    this.#wake?.();
    this.socket.close();
  }

  ref(): void {}

  unref(): void {}

  #writable(): void {
    if (this.#error !== undefined) throw this.#error;
    if (this.socket.readyState !== WebSocket.OPEN) throw new ConnectionLost("the stream was closed");
  }

  #take(data: unknown): void {
    if (typeof data === "string") this.#ended = true; // {"end":true}, the only text behind the first
    else if (data instanceof ArrayBuffer && data.byteLength > 0) {
      this.#chunks.push(new Uint8Array(data));
      this.#unread += data.byteLength;
      if (this.#unread > MAX_UNREAD) {
        this.#chunks.length = 0;
        this.#fail(new StreamReset("STREAM_RESET", `${MAX_UNREAD} bytes of the stream were not read`, this.#told("limit")));
        this.socket.close(RESET);
      }
    }
    this.#wake?.();
  }

  #closed(code: number, reason: string): void {
    if (code === NORMAL) this.#ended = true;
    else if (code === RESET) {
      this.#chunks.length = 0;
      this.#fail(new StreamReset("STREAM_RESET", `the stream was reset: ${reason}`, this.#told(reason)));
    } else this.#fail(closeError(code, reason));
    this.#wake?.();
  }

  #fail(error: FabstirError): void {
    this.#error ??= error;
  }

  #told(outcome: string) {
    const { streamId, peerId, protocol } = this.opened;
    return { streamId, peerId, protocol, outcome: outcome as "unknown" };
  }
}

export const browser: Platform = {
  candidates,
  openWire,
  openPipe,
  describe: (error) => words(error),
  sha256: async (data) => new Uint8Array(await crypto.subtle.digest("SHA-256", data as Uint8Array<ArrayBuffer>)),
  duplex: () => {
    throw new InvalidConfig("a Duplex is Node's; in a browser iterate over the stream", "toDuplex");
  },
};
