/** How a WebSocket was closed, as an error. */
import { ConnectionLost, RpcError, type FabstirError } from "./errors.js";

const POLICY = 1008; // the token was revoked, or has expired

export function closeError(code: number, reason: string): FabstirError {
  const said = reason ? `: ${reason}` : "";
  if (code === POLICY) return forbidden(`the daemon ended the connection${said}`);
  return new ConnectionLost(`the daemon closed the WebSocket with ${code}${said}`);
}

export function forbidden(message: string): RpcError<"FORBIDDEN"> {
  return new RpcError("FORBIDDEN", message, { code: "FORBIDDEN", retryable: false } as never, false, -32008);
}
