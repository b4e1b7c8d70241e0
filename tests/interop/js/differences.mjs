// What differs between the versions of js-libp2p that the peer runs on, 1.9 to 3.3. The rest of it is written for 2.x.

import { readFileSync } from 'node:fs'

/** From the installed package itself: `nodeInfo` may carry an agent version that a test chose. */
export const VERSION = JSON.parse(readFileSync(new URL('../../package.json', import.meta.resolve('libp2p')), 'utf8')).version

const MAJOR = Number(VERSION.split('.')[0])

/** The options of `createLibp2p` and of its identify. 1.x has the encrypters under another name, says its agent in
 * identify, and takes a key only beside the peer id that is made from it. */
export function named ({ connectionEncrypters, nodeInfo, privateKey, ...options }) {
  if (MAJOR > 1) {
    return { connectionEncrypters, ...(nodeInfo && { nodeInfo }), ...(privateKey && { privateKey }), ...options }
  }
  if (privateKey != null) {
    throw new Error('with js-libp2p 1.x this peer takes no "seed"')
  }
  return { connectionEncryption: connectionEncrypters, ...options }
}

export function identifying (options, agentVersion) {
  return MAJOR > 1 ? options : { ...options, agentVersion }
}

/** The handler of a protocol: from 3.0 on it gets the stream and the connection each by itself. */
export function handler (serve) {
  return MAJOR < 3 ? serve : (stream, connection) => serve({ stream: duplex(stream), connection })
}

export async function opened (connection, protocol, options) {
  return duplex(await connection.newStream(protocol, options))
}

/** From 3.0 on a stream sends and tells of messages; until then it had a source and a sink. */
function duplex (stream) {
  if (MAJOR < 3) {
    return stream
  }
  return {
    source: lists(stream),
    async sink (source) {
      for await (const part of source) {
        if (!stream.send(part)) {
          await stream.onDrain()
        }
      }
      await stream.close()
    },
    closeWrite: options => stream.close(options),
    close: options => stream.close(options), // of its own side: the stream is gone once both sides are closed
    abort: error => stream.abort(error)
  }
}

/** What comes, each part as the list of bytes that it was until then. */
async function * lists (stream) {
  for await (const part of stream) {
    yield part instanceof Uint8Array ? { length: part.length, subarray: () => part, [Symbol.iterator]: () => [part].values() } : part
  }
}
