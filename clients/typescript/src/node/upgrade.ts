/** An HTTP request that turns its connection into something else. */
import { request as httpRequest, type IncomingMessage, type RequestOptions } from "node:http";
import { request as httpsRequest } from "node:https";
import { connect as connectTcp, type Socket } from "node:net";
import { connect as connectTls } from "node:tls";
import { forbidden } from "../close-error.js";
import { BadAnswer, fromErrorObject, record, RpcError } from "../errors.js";
import { CONNECT_TIMEOUT, type Endpoint } from "../platform.js";
import { TimedOut } from "./system.js";

type HttpEndpoint = Extract<Endpoint, { kind: "http" }>;

const MAX_REFUSAL = 64 * 1024;

export interface Upgraded {
  readonly response: IncomingMessage;
  readonly socket: Socket;
  /** What came behind the answer. */
  readonly head: Buffer;
}

/** Rejects with an `RpcError` or `BadAnswer` where it is refused, or with the system's error. */
export function upgrade(
  endpoint: HttpEndpoint, path: string, headers: Record<string, string>, timeout: number | undefined, signal?: AbortSignal,
): Promise<Upgraded> {
  return new Promise((resolve, reject) => {
    const host = endpoint.host.replace(/^\[|\]$/g, "");
    const { port } = endpoint;
    const options: RequestOptions = {
      host, port, path: endpoint.prefix + path, method: "GET", agent: false,
      headers: {
        host: endpoint.path === undefined ? `${endpoint.host}:${port}` : "localhost",
        connection: "Upgrade",
        ...(endpoint.token === undefined ? {} : { authorization: `Bearer ${endpoint.token}` }),
        ...headers,
      },
      createConnection: () =>
        endpoint.path !== undefined ? connectTcp({ path: endpoint.path, allowHalfOpen: true })
        : endpoint.scheme === "https:" ? connectTls({ host, port, servername: host })
        : connectTcp({ host, port, allowHalfOpen: true, noDelay: true }),
    };
    const request = (endpoint.scheme === "https:" ? httpsRequest : httpRequest)(options);
    const timer = timeout === undefined ? undefined : setTimeout(() => request.destroy(new TimedOut()), timeout);
    const abort = () => request.destroy(signal?.reason instanceof Error ? signal.reason : new TimedOut());
    const settle = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
    };
    signal?.addEventListener("abort", abort);
    if (signal?.aborted) abort();
    request.once("error", (error) => {
      settle();
      reject(error);
    });
    request.once("upgrade", (response, socket, head) => {
      settle();
      resolve({ response, socket: socket as Socket, head });
    });
    request.once("response", (response) => {
      const parts: Buffer[] = [];
      let size = 0;
      const refuse = () => {
        settle();
        request.destroy();
        reject(refusal(endpoint, response.statusCode ?? 0, Buffer.concat(parts).toString("utf8")));
      };
      response.on("data", (part: Buffer) => {
        parts.push(part);
        size += part.length;
        if (size > MAX_REFUSAL) refuse();
      });
      response.on("end", refuse);
      response.on("error", refuse);
    });
    request.end();
  });
}

/** How long an upgrade may take where the daemon has nothing to wait for. */
export const UPGRADE_TIMEOUT = CONNECT_TIMEOUT;

function refusal(endpoint: HttpEndpoint, status: number, body: string): Error {
  let told: Record<string, unknown> = {};
  try {
    told = record(JSON.parse(body));
  } catch {
    // plain text
  }
  if (typeof told["error"] === "object") return fromErrorObject(told["error"]);
  const said = body.trim().slice(0, 300);
  if (status === 401) {
    const cure = "its owner's is in api.token in the data directory, and `fabstir token create` makes others";
    return forbidden(`${endpoint.words} does not take the token (${endpoint.tokenOrigin}): ${cure}`);
  }
  if (status === 403) return forbidden(`${endpoint.words} refuses this client: ${said}`);
  if (status === 503) return new RpcError("LIMIT_EXCEEDED", `${endpoint.words}: ${said}`, limit(told), true, -32005);
  return new BadAnswer(`${endpoint.words} answered ${status}: ${said || "nothing"}`, { endpoint: endpoint.words });
}

function limit(told: Record<string, unknown>): never {
  return { code: "LIMIT_EXCEEDED", retryable: true, limit: 0, current: 0, configKey: null, ...told } as never;
}
