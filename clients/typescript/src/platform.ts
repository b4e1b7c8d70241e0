/** What Node and browsers do differently: finding the daemon, and connections to it. */
import type { FabstirError } from "./errors.js";

/** Bytes of one text from the daemon, beyond which it is taken for something else. */
export const MAX_TEXT = 64 * 1024 * 1024;
/** How long one place may take to answer, in ms. */
export const CONNECT_TIMEOUT = 10_000;

/** What the caller says about where the daemon is. What is left out comes from the environment, at each connection. */
export interface Target {
  /** `ipc:/path/of/api.sock` or `http://host:port`; in browsers an `http(s)://` or `ws(s)://` address. */
  api?: string | undefined;
  /** The daemon's data directory, in which `api.json` and `api.token` are found. Not in browsers. */
  dataDir?: string | undefined;
  /** For HTTP and WebSocket. */
  token?: string | undefined;
}

/** A place where a daemon may listen: a Unix socket that takes lines of JSON, or HTTP. */
export type Endpoint =
  | { readonly kind: "ipc"; readonly path: string; readonly words: string }
  | {
      readonly kind: "http";
      /** `http:` or `https:`. */
      readonly scheme: "http:" | "https:";
      /** A Unix socket that speaks HTTP; `host` and `port` are then those of the `Host` header. */
      readonly path?: string;
      readonly host: string;
      readonly port: number;
      readonly prefix: string;
      readonly token?: string;
      readonly tokenOrigin: string;
      readonly words: string;
    };

/** A place to try, or why there is none. */
export type Candidate =
  | { readonly label: string; readonly endpoint: Endpoint }
  | { readonly label: string; readonly reason: string };

export interface WireListener {
  message(text: string): void;
  /** Once; nothing comes afterwards. */
  closed(error: FabstirError): void;
}

/** Something that keeps a process alive, or not: sockets and timers of Node. */
export interface Refable {
  ref(): unknown;
  unref(): unknown;
}

/** A connection that carries whole texts, both ways. It does not keep a process alive before `ref` is called. */
export interface Wire extends Refable {
  send(text: string): void;
  /** Without waiting. `closed` is not called. */
  close(): void;
  /** Stop reading; false where that cannot be done (browsers). */
  pause(): boolean;
  resume(): void;
}

/** Two-way bytes, as they come. `ref` and `unref` as for `Wire`. */
export interface Pipe extends Refable {
  /** The next bytes; null once the peer has ended its side. One reader at a time. */
  read(): Promise<Uint8Array | null>;
  /** Resolves when there is room for more. */
  write(data: Uint8Array): Promise<void>;
  /** End our side; resolves when what was written is on its way. */
  end(): Promise<void>;
  /** Close, at once. */
  destroy(): void;
  /** Whether an end of the pipe is always a good end of the stream; else the daemon must be asked. */
  readonly tellsResets: boolean;
  /** Resolves when the peer's end has come, also before what came before it was read. Never rejects. */
  readonly ended: Promise<void>;
}

/** What a connection becomes: a stream that is opened, or one that a peer opened. */
export type PipeRequest =
  | { readonly method: "stream.open"; readonly peerId: string; readonly protocols: readonly string[]; readonly timeout?: number }
  | { readonly method: "stream.accept"; readonly streamId: string };

/** What the daemon says of the stream; over HTTP without `address` and `direction`. */
export interface Opened {
  streamId: string;
  peerId: string;
  protocol: string;
  address?: string;
  direction?: "inbound" | "outbound";
}

export interface Platform {
  /** Where to look for the daemon, in order; with `http`, no Unix sockets. Throws `InvalidConfig`. */
  candidates(target: Target, http: boolean): Candidate[];
  /** Rejects with a `FabstirError`, or with an error of the system. */
  openWire(endpoint: Endpoint, listener: WireListener): Promise<Wire>;
  /** Rejects with a `FabstirError`, or with an error of the system. */
  openPipe(endpoint: Endpoint, request: PipeRequest, signal: AbortSignal): Promise<{ opened: Opened; pipe: Pipe }>;
  /** Why a place could not be connected to, in words. */
  describe(error: unknown, endpoint: Endpoint): string;
  sha256(data: Uint8Array): Promise<Uint8Array>;
  /** A Node `Duplex` over a stream; throws in browsers. */
  duplex(stream: DuplexSource): unknown;
}

/** What a `Duplex` is made of. */
export interface DuplexSource {
  read(): Promise<Uint8Array | null>;
  write(data: Uint8Array): Promise<void>;
  end(): Promise<void>;
  reset(): void;
}
