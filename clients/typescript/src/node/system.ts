/** Errors of the system, in words. */
import { statSync } from "node:fs";
import { dirname } from "node:path";
import { userInfo } from "node:os";
import { readFileSync } from "node:fs";
import { ConnectionLost, FabstirError, words } from "../errors.js";
import { CONNECT_TIMEOUT, type Endpoint } from "../platform.js";

/** Nothing came in time. */
export class TimedOut extends Error {
  readonly errno = "ETIMEDOUT";
}

/** What ended a connection, as an error of ours. */
export function lostBy(error: unknown): FabstirError {
  if (error instanceof FabstirError) return error;
  return new ConnectionLost(`the connection to the daemon broke: ${reasonOf(error)}`);
}

const REASONS: Readonly<Record<string, string>> = {
  ENOENT: "not there",
  ECONNREFUSED: "refused, nobody listens there",
  ECONNRESET: "the other side closed it",
  EPIPE: "the other side closed it",
  ENOTSOCK: "is no socket",
  ENOTFOUND: "no such host",
  ETIMEDOUT: "no answer in time",
};

export function reasonOf(error: unknown): string {
  const code = (error as { code?: unknown } | null)?.code;
  return (typeof code === "string" && REASONS[code]) || words(error);
}

/** Why a place could not be connected to. */
export function describe(error: unknown, endpoint: Endpoint): string {
  if (error instanceof FabstirError) return error.message;
  if (error instanceof TimedOut) return `no answer within ${CONNECT_TIMEOUT / 1000} s`;
  const code = (error as { code?: unknown } | null)?.code;
  if ((code === "EACCES" || code === "EPERM") && endpoint.path !== undefined) {
    return `permission denied${whose(endpoint.path)}`;
  }
  return reasonOf(error);
}

/** Who may use the socket, as far as its file, or the folder that hides it, says so. */
function whose(path: string): string {
  for (const place of [path, dirname(path)]) {
    try {
      const found = statSync(place);
      if ((found.mode & 0o070) === 0) return `, it is for the user ${nameOf("passwd", found.uid)} alone`;
      const group = nameOf("group", found.gid);
      return (
        `, it is for members of the group ${group}: ` +
        `as root, usermod -aG ${group} ${userInfo().username}; then log in again`
      );
    } catch {
      continue; // hidden from us
    }
  }
  return "";
}

function nameOf(database: "passwd" | "group", id: number): string {
  try {
    for (const line of readFileSync(`/etc/${database}`, "utf8").split("\n")) {
      const [name, , number] = line.split(":");
      if (name !== undefined && number === String(id)) return name;
    }
  } catch {
    // its number will do
  }
  return String(id);
}
