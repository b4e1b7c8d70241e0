// The Node side of rpc.py and events.py: JSON-RPC 2.0 over `ws`, as one would write it, and a broadcaster.
// Prints {"port": …} once it listens.

import { WebSocketServer } from 'ws'

const server = new WebSocketServer({ host: '127.0.0.1', port: 0, perMessageDeflate: false, backlog: 4096 })
const peerId = '12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN'
const address = `/ip4/127.0.0.1/tcp/4001/p2p/${peerId}`
const started = Date.now()
let seq = 0

function status () {
  const now = Date.now()
  return {
    state: 'started', connected: true, peerId, connections: 0, peers: 0, bootstrapNodes: [], listenAddresses: [address],
    version: '0.1.0', epoch: '0123456789abcdef', head: seq, startTime: started, uptime: now - started
  }
}

// As fabstird's: serialised once, sent to every client
function publish () {
  const params = {
    subscription: 's1', epoch: '0123456789abcdef', seq: ++seq, time: Date.now(), type: 'peer:connect',
    data: { peerId, address, direction: 'inbound' }
  }
  const message = JSON.stringify({ jsonrpc: '2.0', method: 'event', params })
  for (const client of server.clients) {
    if (client.subscribed) client.send(message)
  }
}

const methods = {
  status,
  subscribe (_, client) { client.subscribed = true; return { subscription: 's1', status: status() } },
  'bench.burst' ({ events }) { for (let left = events; left > 0; left--) publish(); return {} }
}

server.on('connection', client => {
  client.on('message', text => {
    const { id, method, params } = JSON.parse(text)
    const result = methods[method]?.(params, client)
    const answer = result ? { result } : { error: { code: -32601, message: `Method not found: ${method}` } }
    client.send(JSON.stringify({ jsonrpc: '2.0', ...answer, id }))
  })
})
server.on('listening', () => console.log(JSON.stringify({ port: server.address().port })))
