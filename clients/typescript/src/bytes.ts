/** Bytes and texts, the same in Node and in browsers. */

/** What may be written: a text is sent as UTF-8. */
export type Bytes = Uint8Array | string;

const encoder = new TextEncoder();
const CHUNK = 0x8000;

interface NodeBuffer {
  from(data: unknown, encoding?: string | number, length?: number): { toString(encoding: string): string } & Uint8Array;
}

const NodeBuffer = (globalThis as { Buffer?: NodeBuffer }).Buffer;

export function toBytes(data: Bytes): Uint8Array {
  if (typeof data === "string") return encoder.encode(data);
  if (data instanceof Uint8Array) return data;
  throw new TypeError("what is sent must be a Uint8Array or a string");
}

export function toBase64(data: Uint8Array): string {
  if (NodeBuffer !== undefined) {
    return NodeBuffer.from(data.buffer, data.byteOffset, data.byteLength).toString("base64");
  }
  let binary = "";
  for (let at = 0; at < data.length; at += CHUNK) {
    binary += String.fromCharCode(...data.subarray(at, at + CHUNK));
  }
  return btoa(binary);
}

export function fromBase64(text: string): Uint8Array {
  if (NodeBuffer !== undefined) {
    const buffer = NodeBuffer.from(text, "base64");
    return new Uint8Array(buffer.buffer, buffer.byteOffset, buffer.byteLength);
  }
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}
