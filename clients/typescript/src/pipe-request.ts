/** What opens a stream, as a query, and the daemon's answer. */
import { BadAnswer, record } from "./errors.js";
import type { Opened, PipeRequest } from "./platform.js";

export function asQuery(request: PipeRequest): string {
  const query = new URLSearchParams();
  if (request.method === "stream.accept") query.append("streamId", request.streamId);
  else {
    query.append("peerId", request.peerId);
    for (const protocol of request.protocols) query.append("protocol", protocol);
    if (request.timeout !== undefined) query.append("timeout", String(request.timeout));
  }
  return query.toString();
}

/** Throws `BadAnswer`. */
export function asOpened(value: unknown): Opened {
  const { streamId, peerId, protocol } = record(value);
  if (typeof streamId !== "string" || typeof peerId !== "string" || typeof protocol !== "string" || !streamId) {
    throw new BadAnswer("the daemon's answer to a stream does not name it");
  }
  return value as Opened;
}
