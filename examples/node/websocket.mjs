// The state of the node, then its events, over a WebSocket. usage: node websocket.mjs DATA_DIR [COUNT]
// WebSocket is built into Node 22 and newer, as into browsers. It cannot set headers, so the token stands in the query.
import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'

const [dir, count = Infinity] = process.argv.slice(2)
let left = Number(count)
let seen = null // { after, epoch } of the last event: where to go on after a lost connection

/** One connection: `call` makes calls, `closed` settles at its end. Rejects where there is none. */
async function connect() {
  const { http } = JSON.parse(readFileSync(`${dir}/api.json`, 'utf8'))
  const token = readFileSync(`${dir}/api.token`, 'utf8').trim()
  const socket = new WebSocket(`ws://${http}/ws?token=${token}`)
  const waiting = new Map() // calls by id
  let ids = 0

  const closed = new Promise((resolve) => {
    socket.onclose = () => {
      for (const { reject } of waiting.values()) reject(new Error('connection lost'))
      resolve()
    }
  })
  socket.onmessage = ({ data }) => {
    const message = JSON.parse(data)
    if (message.method) return notify(message.method, message.params)
    const { resolve, reject } = waiting.get(message.id)
    waiting.delete(message.id)
    if (message.error) reject(new Error(`${message.error.data.code}: ${message.error.message}`))
    else resolve(message.result)
  }
  await new Promise((resolve, reject) => {
    socket.onopen = resolve
    socket.onerror = () => reject(new Error('cannot connect'))
  })
  socket.onerror = null // the end of the connection is told by onclose
  const call = (method, params = {}) =>
    new Promise((resolve, reject) => {
      const id = ++ids
      waiting.set(id, { resolve, reject })
      socket.send(JSON.stringify({ jsonrpc: '2.0', id, method, params }))
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
    const { call, closed } = await connect()
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
