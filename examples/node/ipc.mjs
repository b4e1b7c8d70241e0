// The state of the node, then its events, over the Unix socket. usage: node ipc.mjs DATA_DIR [COUNT]
import { readFileSync } from 'node:fs'
import { createConnection } from 'node:net'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'

const [dir, count = Infinity] = process.argv.slice(2)
let left = Number(count)
let seen = null // { after, epoch } of the last event: where to go on after a lost connection

/** One connection: `call` makes calls, `notify` is told what else comes, `closed` settles at its end. */
function connect(notify) {
  const { ipc } = JSON.parse(readFileSync(`${dir}/api.json`, 'utf8'))
  const socket = createConnection(ipc)
  const waiting = new Map() // calls by id
  let ids = 0

  // A message is one line of JSON, both ways. Answers come as calls finish; `id` says which one each is for.
  createInterface({ input: socket }).on('line', (line) => {
    const message = JSON.parse(line)
    if (message.method) return notify(message.method, message.params)
    const { resolve, reject } = waiting.get(message.id)
    waiting.delete(message.id)
    if (message.error) reject(new Error(`${message.error.data.code}: ${message.error.message}`))
    else resolve(message.result)
  }).on('error', () => {}) // the socket's own handler below has it

  const closed = new Promise((resolve) => {
    socket.on('error', () => {}) // 'close' follows
    socket.on('close', () => {
      for (const { reject } of waiting.values()) reject(new Error('connection lost'))
      resolve()
    })
  })
  const call = (method, params = {}) =>
    new Promise((resolve, reject) => {
      const id = ++ids
      waiting.set(id, { resolve, reject })
      socket.write(JSON.stringify({ jsonrpc: '2.0', id, method, params }) + '\n')
    })
  return { call, closed }
}

function notify(method, params) {
  if (method === 'event') {
    seen = { after: params.seq, epoch: params.epoch }
    console.log(`event ${params.seq} ${params.type}`)
    if (--left === 0) process.exit(0)
  } else if (method === 'lagged') {
    console.log(params.missed === null ? 'the daemon was restarted' : `${params.missed} events are gone`)
  } // a heartbeat says only that the connection is alive
}

for (;;) {
  try {
    const { call, closed } = connect(notify)
    if (!seen) console.log(`state ${(await call('status')).state}`)
    const { head, epoch } = await call('subscribe', seen ?? {})
    seen ??= { after: head, epoch }
    if (epoch !== seen.epoch) seen = { after: head, epoch } // another run: its numbers begin anew
    await closed
  } catch (error) {
    if (!seen) throw error // never connected at all
  }
  console.log('connection lost')
  await sleep(300)
}
