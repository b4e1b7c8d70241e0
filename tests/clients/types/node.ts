// Must compile where there are types of Node.
import { pipeline } from "node:stream/promises";
import type { Duplex } from "node:stream";
import type { Stream } from "fabstir-client";

export async function copy(stream: Stream, from: NodeJS.ReadableStream, to: NodeJS.WritableStream): Promise<void> {
  const duplex: Duplex = stream.toDuplex();
  await pipeline(from, duplex, to);
}
