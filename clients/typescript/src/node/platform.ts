/** Node: Unix sockets, and HTTP with the library that Node has. */
import { createHash } from "node:crypto";
import type { Platform } from "../platform.js";
import { candidates } from "./discovery.js";
import { openIpcWire } from "./ipc.js";
import { duplex, openHttpPipe, openIpcPipe } from "./pipe.js";
import { describe } from "./system.js";
import { openWebSocketWire } from "./websocket.js";

export const node: Platform = {
  candidates: (target, http) => candidates(target, http),
  openWire: (endpoint, listener) =>
    endpoint.kind === "ipc" ? openIpcWire(endpoint.path, listener) : openWebSocketWire(endpoint, listener),
  openPipe: (endpoint, request, signal) =>
    endpoint.kind === "ipc" ? openIpcPipe(endpoint.path, request, signal) : openHttpPipe(endpoint, request, signal),
  describe,
  sha256: async (data) => createHash("sha256").update(data).digest(),
  duplex,
};
