// What the peer serves on a stream, and what its commands do on streams of their own: ../README.md has both.

import { createHash, randomBytes } from 'node:crypto'

import { opened } from './differences.mjs'

export const ECHO = '/fabstir-interop/echo/1.0.0'
const DIGEST = '/fabstir-interop/digest/1.0.0'
const HOLD = '/fabstir-interop/hold/1.0.0'
const PERF = '/perf/1.0.0'
const RESET = '/fabstir-interop/reset/1.0.0'
const SINK = '/fabstir-interop/sink/1.0.0'

const MAX_ECHO = 64 * 1024 * 1024
const MAX_STREAMS = 1024
const MAX_COUNT = 10_000_000
const BLOCK = new Uint8Array(64 * 1024)

let release
let released = new Promise(resolve => { release = resolve })

// ---------------------------------------------------------------------------------------------------------------------
// serving

/** The handler of a protocol; one that is not known is an echo. */
export function serving (name, { send, words }) {
  const serve = { [DIGEST]: digest, [HOLD]: hold, [PERF]: servePerf, [RESET]: cut, [SINK]: sink }[name] ?? serveEcho
  return async ({ stream, connection }) => {
    try {
      await serve(stream, taken => {
        send({ event: 'stream', peerId: connection.remotePeer.toString(), protocol: name, ...taken })
      })
    } catch (error) {
      stream.abort(error)
      console.error(`${name}:`, words(error))
    }
  }
}

async function serveEcho (stream) {
  await stream.sink(stream.source)
  await stream.close()
}

async function digest (stream) {
  const { sum } = await taken(stream)
  await stream.sink([sum])
  await stream.close()
}

/** Ends its side at once, and tells what has come. */
async function sink (stream, tell) {
  await stream.closeWrite()
  tell(described(await taken(stream, true)))
}

/** Reads nothing before it is told to. */
async function hold (stream, tell) {
  await released
  tell(described(await taken(stream, true)))
  await stream.close()
}

async function cut (stream) {
  await stream.source.next()
  stream.abort(new Error('cut, as asked'))
}

async function servePerf (stream) {
  let head = Buffer.alloc(0)
  for await (const list of stream.source) {
    if (head.length < 8) {
      head = Buffer.concat([head, list.subarray()])
    }
  }
  await stream.sink(zeros(Number(head.readBigUInt64BE())))
  await stream.close()
}

async function taken (stream, whatever = false) {
  const hash = createHash('sha256')
  let bytes = 0
  let reset = false
  try {
    for await (const list of stream.source) {
      for (const part of list) {
        hash.update(part)
      }
      bytes += list.length
    }
  } catch (error) {
    if (!whatever) {
      throw error
    }
    reset = true
  }
  return { bytes, reset, sum: hash.digest() }
}

function described ({ bytes, reset, sum }) {
  return { bytes, sha256: sum.toString('hex'), reset }
}

function * zeros (left) {
  for (; left > 0; left -= BLOCK.length) {
    yield left < BLOCK.length ? BLOCK.subarray(0, left) : BLOCK
  }
}

async function * chunked (bytes) {
  for (let offset = 0; offset < bytes.length; offset += BLOCK.length) {
    yield bytes.subarray(offset, offset + BLOCK.length)
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// commands: each gets the connection, its arguments, and the signal that ends it

function count (args, name, most) {
  if (!Number.isInteger(args[name]) || args[name] < 0 || args[name] > most) {
    throw new RangeError(`"${name}" must be a whole number from 0 to ${most}`)
  }
  return args[name]
}

/** Does something on a new stream, which is cut where that fails or takes too long. */
async function on (connection, protocol, signal, work) {
  const stream = await opened(connection, protocol ?? ECHO, { signal, maxOutboundStreams: MAX_STREAMS })
  const abort = () => stream.abort(signal.reason)
  signal.addEventListener('abort', abort)
  try {
    return await work(stream)
  } catch (error) {
    stream.abort(error)
    throw error
  } finally {
    signal.removeEventListener('abort', abort)
  }
}

/** Written by hand, while nothing is read: the sink of a stream takes an iterable until its end. */
function writing (stream) {
  const waiting = []
  let wake = () => {}
  let ended = false
  async function * source () {
    while (waiting.length > 0 || !ended) {
      if (waiting.length === 0) {
        await new Promise(resolve => { wake = resolve })
      } else {
        yield waiting.shift()
      }
    }
  }
  const done = stream.sink(source())
  return {
    write (data) { waiting.push(data); wake() },
    async end () { ended = true; wake(); await done }
  }
}

export const STREAM_COMMANDS = {
  async echo (connection, args, signal) {
    const size = count(args, 'bytes', MAX_ECHO)
    const sent = randomBytes(size)
    const start = performance.now()
    return await on(connection, args.protocol, signal, async stream => {
      let received = 0
      const receive = async () => {
        for await (const list of stream.source) {
          const chunk = list.subarray()
          if (Buffer.compare(sent.subarray(received, received + chunk.length), chunk) !== 0) {
            throw new Error(`other bytes came back between ${received} and ${received + chunk.length}`)
          }
          received += chunk.length
        }
      }
      await Promise.all([stream.sink(chunked(sent)), receive()])
      if (received !== size) {
        throw new Error(`${size} bytes went out, ${received} came back`)
      }
      await stream.close({ signal })
      return { bytes: size, ms: performance.now() - start }
    })
  },

  async exchange (connection, args, signal) {
    const sent = randomBytes(count(args, 'bytes', MAX_ECHO))
    const sha256 = createHash('sha256').update(sent).digest('hex')
    return await on(connection, args.protocol, signal, async stream => {
      const early = args.first === 'read' ? await taken(stream, true) : undefined
      if (args.end === 'reset') {
        const out = writing(stream)
        out.write(sent)
        await stream.source.next()
        out.end().catch(() => {})
        stream.abort(new Error('cut, as asked'))
        return { sent: sha256 }
      }
      const sending = stream.sink(chunked(sent)).then(() => false, () => true)
      const back = early ?? await taken(stream, true)
      const failed = await sending
      signal.throwIfAborted()
      return { sent: sha256, ...described(back), reset: back.reset || failed }
    })
  },

  async streams (connection, args, signal) {
    const open = []
    for (let at = 0; at < count(args, 'count', MAX_STREAMS); at += 1) {
      const stream = await opened(connection, args.protocol ?? ECHO, { signal, maxOutboundStreams: MAX_STREAMS })
      open.push({ stream, out: writing(stream) })
      open.at(-1).out.write(Uint8Array.of(at % 256))
    }
    for (const [at, { stream, out }] of open.entries()) {
      await out.end()
      const back = []
      for await (const list of stream.source) {
        back.push(...list.subarray())
      }
      if (back.length !== 1 || back[0] !== at % 256) {
        throw new Error(`stream ${at} got ${back} back`)
      }
    }
    return { count: open.length }
  },

  async perf (connection, args, signal) {
    const upload = count(args, 'upload', 2 ** 40)
    const download = count(args, 'download', 2 ** 40)
    const head = Buffer.alloc(8)
    head.writeBigUInt64BE(BigInt(download))
    return await on(connection, PERF, signal, async stream => {
      const start = performance.now()
      await stream.sink((function * () {
        yield head
        yield * zeros(upload)
      })())
      let turned
      let came = 0
      for await (const list of stream.source) {
        turned ??= performance.now()
        came += list.length
      }
      if (came !== download) {
        throw new Error(`${came} of ${download} bytes came`)
      }
      turned ??= performance.now()
      return { upload: (turned - start) / 1000, download: (performance.now() - turned) / 1000 }
    })
  },

  async opens (connection, args, signal) {
    const start = performance.now()
    for (let left = count(args, 'count', MAX_COUNT); left > 0; left -= 1) {
      await on(connection, args.protocol, signal, async stream => {
        await stream.sink([Uint8Array.of(1)])
        await taken(stream)
      })
    }
    return { seconds: (performance.now() - start) / 1000 }
  },

  async messages (connection, args, signal) {
    const message = Buffer.from('token')
    const start = performance.now()
    await on(connection, DIGEST, signal, async stream => {
      await stream.sink((function * () {
        for (let left = count(args, 'count', MAX_COUNT); left > 0; left -= 1) {
          yield message
        }
      })())
      await taken(stream)
    })
    return { seconds: (performance.now() - start) / 1000 }
  },

  async roundTrips (connection, args, signal) {
    const took = []
    await on(connection, args.protocol, signal, async stream => {
      const out = writing(stream)
      for (let left = count(args, 'count', MAX_COUNT); left > 0; left -= 1) {
        const start = performance.now()
        out.write(Uint8Array.of(1))
        await stream.source.next()
        took.push(performance.now() - start)
      }
      await out.end()
    })
    return { p50: took.sort((a, b) => a - b)[Math.floor(took.length / 2)] }
  }
}

export function releaseHeld () {
  release()
  released = new Promise(resolve => { release = resolve })
}
