/**
 * One tree of errors under `FabstirError`. What the daemon answers is an `RpcError` with the details that the API
 * promises for its code; the rest are the client's own.
 */
import { RPC_CODES, type ErrorCode, type ErrorDataByCode, type Method } from "./generated/api.js";

const BRAND = Symbol.for("fabstir-client.error");

/** How a stream ended that did not end well. */
export type StreamOutcome =
  | "reset" | "peer_reset" | "peer_gone" | "timeout" | "limit" | "stopped" | "shutdown" | "unknown";

/** The details of the errors that the client makes itself. */
export interface ClientErrorDataByCode {
  /** No daemon was reached. `tried` says where it was looked for, and what came of it. */
  DAEMON_UNREACHABLE: { tried: [place: string, reason: string][] };
  /**
   * The connection ended before the answer came. `carriedOut` is "no" where the call was never sent and "unknown" where
   * the daemon may have carried it out.
   */
  CONNECTION_LOST: { method?: string; carriedOut?: "no" | "unknown" };
  /** The daemon did not answer within the client's own bound. */
  CLIENT_TIMEOUT: { method?: string; timeout: number };
  /** What answered does not speak as the API promises: another program, or a daemon of another version. */
  BAD_ANSWER: { endpoint?: string };
  /** An argument, an option or a variable of the environment is wrong. Nothing was sent. */
  INVALID_CONFIG: { name?: string };
  /** A stream did not end well: what was read may be cut short. */
  STREAM_RESET: { streamId: string; peerId: string; protocol: string; outcome: StreamOutcome };
  /** The client was closed. */
  CLOSED: { method?: string };
}

/** The details of every error by its code. */
export interface DataByCode extends ErrorDataByCode, ClientErrorDataByCode {}

/** Every `code` that a `FabstirError` can have. */
export type AnyErrorCode = keyof DataByCode;

/** An error by its code: `switch (error.code)` narrows `error.data`. See `isFabstirError`. */
export type AnyFabstirError = { [C in AnyErrorCode]: FabstirError<C> }[AnyErrorCode];

/**
 * The root of all errors. `retryable` says whether the same call may succeed later without being changed, and does no
 * harm if it is made again.
 */
export class FabstirError<C extends AnyErrorCode = AnyErrorCode> extends Error {
  override readonly name: string = "FabstirError";
  readonly code: C;
  readonly retryable: boolean;
  readonly data: Readonly<DataByCode[C]>;

  constructor(code: C, message: string, data: DataByCode[C], retryable = false) {
    super(clean(message));
    this.code = code;
    this.data = data;
    this.retryable = retryable;
    Object.defineProperty(this, BRAND, { value: true });
  }
}

const MAX_MESSAGE = 4096; // characters
// Controls of terminals, and characters that turn the direction of writing: they come from strangers, and are printed.
const CONTROLS = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;

/** A text that can be printed and logged, whoever wrote it. */
function clean(text: string): string {
  const harmless = text.slice(0, MAX_MESSAGE).replace(CONTROLS, "\ufffd");
  return text.length > MAX_MESSAGE ? `${harmless}…` : harmless;
}

/** The daemon answered with an error. `rpcCode` is its JSON-RPC number. */
export class RpcError<C extends ErrorCode = ErrorCode> extends FabstirError<C> {
  override readonly name: string = "RpcError";
  readonly rpcCode: number;

  constructor(code: C, message: string, data: ErrorDataByCode[C], retryable: boolean, rpcCode: number) {
    super(code, message, data as DataByCode[C], retryable);
    this.rpcCode = rpcCode;
  }
}

/** No daemon was reached; the message says what was tried and what to run. */
export class DaemonUnreachable extends FabstirError<"DAEMON_UNREACHABLE"> {
  override readonly name: string = "DaemonUnreachable";

  constructor(tried: [place: string, reason: string][], start = "fabstird run") {
    const listed = tried.map(([place, reason]) => `${place}: ${reason}`).join("; ");
    const denied = tried.some(([, reason]) => reason.startsWith("permission denied"));
    const cure = denied ? "" : `. Start one with: ${start}`;
    super("DAEMON_UNREACHABLE", `no daemon was reached (tried ${listed || "nothing"})${cure}`, { tried }, true);
  }
}

/** The connection to the daemon ended while a call waited for its answer. */
export class ConnectionLost extends FabstirError<"CONNECTION_LOST"> {
  override readonly name: string = "ConnectionLost";

  constructor(message: string, data: ClientErrorDataByCode["CONNECTION_LOST"] = {}, retryable = true) {
    super("CONNECTION_LOST", message, data, retryable);
  }
}

/** The daemon did not answer within the client's own bound. */
export class ClientTimeout extends FabstirError<"CLIENT_TIMEOUT"> {
  override readonly name: string = "ClientTimeout";
}

/** What answered does not speak as the API promises. */
export class BadAnswer extends FabstirError<"BAD_ANSWER"> {
  override readonly name: string = "BadAnswer";

  constructor(message: string, data: ClientErrorDataByCode["BAD_ANSWER"] = {}) {
    super("BAD_ANSWER", message, data);
  }
}

/** An argument, an option or a variable of the environment is wrong. */
export class InvalidConfig extends FabstirError<"INVALID_CONFIG"> {
  override readonly name: string = "InvalidConfig";

  constructor(message: string, name?: string) {
    super("INVALID_CONFIG", message, name === undefined ? {} : { name });
  }
}

/** A stream did not end well: it was reset, the peer went, or the daemon did. */
export class StreamReset extends FabstirError<"STREAM_RESET"> {
  override readonly name: string = "StreamReset";
}

/** The client was closed. */
export class Closed extends FabstirError<"CLOSED"> {
  override readonly name: string = "Closed";

  constructor(data: ClientErrorDataByCode["CLOSED"] = {}) {
    super("CLOSED", "the client was closed", data);
  }
}

/** Whether it is an error of this package, whichever copy of the package made it. */
export function isFabstirError(error: unknown): error is AnyFabstirError {
  return typeof error === "object" && error !== null && (error as Record<symbol, unknown>)[BRAND] === true;
}

/** Whether it is an error with this code. */
export function hasCode<C extends AnyErrorCode>(error: unknown, code: C): error is FabstirError<C> {
  return isFabstirError(error) && error.code === code;
}

/** Whether the same call, made again after a lost connection, does no harm where it was carried out the first time. */
export function harmlessTwice(method: string, access: string | undefined): boolean {
  return access === "read" || IDEMPOTENT.has(method);
}

const IDEMPOTENT: ReadonlySet<string> = new Set<Method>(["start", "stop"]);

const CODES = new Map<number, ErrorCode>(
  (Object.entries(RPC_CODES) as [ErrorCode, number][]).map(([code, number]) => [number, code]),
);

const CODE = /^[A-Z][A-Z0-9_]{0,63}$/;

const NO_DETAILS = { code: "INTERNAL_ERROR", retryable: false };

/** The error for a JSON-RPC error object, however malformed. */
export function fromErrorObject(object: unknown): RpcError {
  const error = record(object);
  const details = record(error["data"]);
  const number = typeof error["code"] === "number" ? error["code"] : 0;
  // A daemon of a later version may have codes that are not known here.
  const named = typeof details["code"] === "string" && CODE.test(details["code"]) ? details["code"] : undefined;
  const code = (named ?? CODES.get(number) ?? "INTERNAL_ERROR") as ErrorCode;
  const message = typeof error["message"] === "string" && error["message"] ? error["message"] : "unknown error";
  const data = { ...NO_DETAILS, ...details } as unknown as ErrorDataByCode[ErrorCode];
  return new RpcError(code, message, data, details["retryable"] === true, number);
}

/** The object itself, or an empty one where it is no object. */
export function record(value: unknown): Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : {};
}

/** The message of whatever was thrown. */
export function words(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
