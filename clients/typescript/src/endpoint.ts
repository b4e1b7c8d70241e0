/** Addresses of HTTP endpoints, and the tokens for them. */
import { InvalidConfig } from "./errors.js";
import type { Endpoint } from "./platform.js";

type HttpEndpoint = Extract<Endpoint, { kind: "http" }>;

const NO_TOKEN = "none was found; set FABSTIR_TOKEN or FABSTIR_TOKEN_FILE, or name the data directory";
const SCHEMES: Readonly<Record<string, "http:" | "https:">> = {
  "http:": "http:", "https:": "https:", "ws:": "http:", "wss:": "https:",
};

/** Throws `InvalidConfig`, saying that the address must be `expected`. */
export function parseHttp(address: string, expected: string): HttpEndpoint {
  let url: URL | undefined;
  try {
    url = new URL(address);
  } catch {
    // said below
  }
  const scheme = url === undefined ? undefined : SCHEMES[url.protocol];
  if (url === undefined || scheme === undefined || !url.hostname || url.search || url.hash || url.username) {
    throw new InvalidConfig(`${JSON.stringify(address)} is no address of a daemon; it must be ${expected}`, "api");
  }
  const prefix = url.pathname.replace(/\/+$/, "").replace(/\/ws$/, "");
  return {
    kind: "http",
    scheme,
    host: url.hostname,
    port: Number(url.port) || (scheme === "https:" ? 443 : 80),
    prefix,
    tokenOrigin: NO_TOKEN,
    words: `${scheme}//${url.host}${prefix}`,
  };
}

export function withToken(endpoint: Endpoint, token: string | undefined, tokenOrigin: string): Endpoint {
  if (endpoint.kind === "ipc") return endpoint;
  if (token === undefined) return { ...endpoint, tokenOrigin };
  if (!/^[\x21-\x7e]*$/.test(token)) {
    throw new InvalidConfig(`the token (${tokenOrigin}) holds characters that no token has`, "token");
  }
  return { ...endpoint, token, tokenOrigin };
}
