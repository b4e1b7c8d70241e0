/** JSON over a WebSocket of our own: Node before 22 has none, and Node's cannot send an `Authorization` header. */
import { createHash, randomBytes } from "node:crypto";
import { BadAnswer, ConnectionLost, type FabstirError } from "../errors.js";
import { closeError } from "../close-error.js";
import { MAX_TEXT, type Endpoint, type Wire, type WireListener } from "../platform.js";
import { CLOSE, encode, Frames, PING, PONG, TEXT, type Frame } from "./frames.js";
import { lostBy } from "./system.js";
import { upgrade, UPGRADE_TIMEOUT } from "./upgrade.js";

const GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

export async function openWebSocketWire(
  endpoint: Extract<Endpoint, { kind: "http" }>, listener: WireListener,
): Promise<Wire> {
  const key = randomBytes(16).toString("base64");
  const headers = { upgrade: "websocket", "sec-websocket-version": "13", "sec-websocket-key": key };
  const { response, socket, head } = await upgrade(endpoint, "/ws", headers, UPGRADE_TIMEOUT);
  if (response.headers["sec-websocket-accept"] !== createHash("sha1").update(key + GUID).digest("base64")) {
    socket.destroy();
    throw new BadAnswer(`${endpoint.words} does not speak WebSocket`, { endpoint: endpoint.words });
  }
  const frames = new Frames(MAX_TEXT);
  const decoder = new TextDecoder("utf-8", { fatal: true });
  let open = true;

  function close(): void {
    if (open) socket.write(encode(CLOSE, Buffer.from([0x03, 0xe8]))); // 1000
    open = false;
    socket.destroySoon();
    socket.resume(); // what still comes is dropped
  }
  function end(error: unknown): void {
    if (!open) return;
    open = false;
    socket.destroy();
    listener.closed(lostBy(error));
  }
  function take(frame: Frame): void {
    if (frame.opcode === TEXT) listener.message(decoder.decode(frame.payload));
    else if (frame.opcode === PING) socket.write(encode(PONG, frame.payload));
    else if (frame.opcode === CLOSE) {
      socket.write(encode(CLOSE, frame.payload.subarray(0, 2)));
      end(closedBy(frame.payload));
    }
  }
  function feed(chunk: Buffer): void {
    try {
      for (const frame of frames.feed(chunk)) {
        if (!open) return; // a listener has closed it
        take(frame);
      }
    } catch (error) {
      end(error instanceof TypeError ? new BadAnswer("what came is not UTF-8") : error);
    }
  }
  socket.on("data", feed);
  socket.on("error", end);
  socket.on("end", () => end(new ConnectionLost("the daemon closed the connection")));
  socket.on("close", () => end(new ConnectionLost("the connection to the daemon was closed")));
  socket.unref();
  if (head.length > 0) queueMicrotask(() => feed(head));
  return {
    send: (text) => void (open && socket.write(encode(TEXT, Buffer.from(text, "utf8")))),
    close,
    pause: () => (socket.pause(), true),
    resume: () => void socket.resume(),
    ref: () => socket.ref(),
    unref: () => socket.unref(),
  };
}

/** The error for a close frame of the daemon's. */
function closedBy(payload: Buffer): FabstirError {
  const code = payload.length >= 2 ? payload.readUInt16BE(0) : 1005;
  const reason = payload.subarray(2).toString("utf8");
  return closeError(code, reason);
}
