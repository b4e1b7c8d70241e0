/** WebSocket frames (RFC 6455) as a client makes and reads them, without any I/O. */
import { randomFillSync } from "node:crypto";
import { BadAnswer } from "../errors.js";

export const TEXT = 0x1;
export const CLOSE = 0x8;
export const PING = 0x9;
export const PONG = 0xa;
const CONTINUATION = 0x0;
const BINARY = 0x2;
const FIN = 0x80;
const MASKED = 0x80;
const MAX_CONTROL = 125;

/** What came: a whole text, or a control frame. */
export interface Frame {
  readonly opcode: number;
  readonly payload: Buffer;
}

/** A frame of the client's, masked as the protocol demands. */
export function encode(opcode: number, payload: Buffer): Buffer {
  const size = payload.length;
  const extra = size < 126 ? 0 : size < 0x10000 ? 2 : 8;
  const frame = Buffer.allocUnsafe(2 + extra + 4 + size);
  frame[0] = FIN | opcode;
  frame[1] = MASKED | (extra === 0 ? size : extra === 2 ? 126 : 127);
  if (extra === 2) frame.writeUInt16BE(size, 2);
  if (extra === 8) frame.writeBigUInt64BE(BigInt(size), 2);
  const mask = randomFillSync(frame, 2 + extra, 4).subarray(2 + extra, 6 + extra);
  const start = 6 + extra;
  for (let at = 0; at < size; at += 1) frame[start + at] = payload[at]! ^ mask[at & 3]!;
  return frame;
}

/** Joins what comes to frames and messages, none longer than `limit` bytes. */
export class Frames {
  #buffered: Buffer[] = [];
  #size = 0;
  #message: Buffer[] | undefined;
  #messageSize = 0;

  constructor(private readonly limit: number) {}

  /** The messages and control frames that are whole with this chunk. Throws `BadAnswer`. */
  *feed(chunk: Buffer): Generator<Frame> {
    this.#buffered.push(chunk);
    this.#size += chunk.length;
    for (let frame = this.#take(); frame !== undefined; frame = this.#take()) {
      const whole = this.#joined(frame.fin, frame.opcode, frame.payload);
      if (whole !== undefined) yield whole;
    }
  }

  #take(): { fin: boolean; opcode: number; payload: Buffer } | undefined {
    if (this.#size < 2) return undefined;
    const head = this.#peek(Math.min(10, this.#size));
    const [first, second] = [head[0]!, head[1]!];
    if ((first & 0x70) !== 0 || (second & MASKED) !== 0) throw new BadAnswer("a WebSocket frame is malformed");
    const short = second & 0x7f;
    const start = short < 126 ? 2 : short === 126 ? 4 : 10;
    if (this.#size < start) return undefined;
    const size = short < 126 ? short : short === 126 ? head.readUInt16BE(2) : Number(head.readBigUInt64BE(2));
    const control = (first & 0x8) !== 0;
    if (control && (size > MAX_CONTROL || (first & FIN) === 0)) throw new BadAnswer("a WebSocket frame is malformed");
    if (size + this.#messageSize > this.limit) {
      throw new BadAnswer(`a message of more than ${this.limit} bytes came from the daemon`);
    }
    if (this.#size < start + size) return undefined;
    const payload = this.#peek(start + size).subarray(start);
    this.#drop(start + size);
    return { fin: (first & FIN) !== 0, opcode: first & 0xf, payload };
  }

  #joined(fin: boolean, opcode: number, payload: Buffer): Frame | undefined {
    if (opcode >= CLOSE) return { opcode, payload };
    const begins = opcode === TEXT || opcode === BINARY;
    if (begins === (this.#message !== undefined) || (!begins && opcode !== CONTINUATION)) {
      throw new BadAnswer("a WebSocket frame is malformed");
    }
    this.#message ??= [];
    this.#message.push(payload);
    this.#messageSize += payload.length;
    if (!fin) return undefined;
    const whole = this.#message.length === 1 ? payload : Buffer.concat(this.#message);
    this.#message = undefined;
    this.#messageSize = 0;
    return { opcode: TEXT, payload: whole };
  }

  #peek(size: number): Buffer {
    if (this.#buffered[0]!.length < size) this.#buffered = [Buffer.concat(this.#buffered)];
    return this.#buffered[0]!.subarray(0, size);
  }

  #drop(size: number): void {
    const rest = this.#buffered[0]!.subarray(size);
    if (rest.length > 0) this.#buffered[0] = rest;
    else this.#buffered.shift();
    this.#size -= size;
  }
}
