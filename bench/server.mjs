// The js-libp2p side of connections.py: a node that accepts connections as fast as it can. One JSON command a line on
// stdin, one JSON answer a line on stdout. Started with --expose-gc, so that its memory can be read without its garbage.

import { readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'

import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { identify } from '@libp2p/identify'
import { tcp } from '@libp2p/tcp'
import { createLibp2p } from 'libp2p'

const PLENTY = 1_000_000

const node = await createLibp2p({
  addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: { identify: identify() },
  connectionManager: {
    maxConnections: PLENTY,
    maxIncomingPendingConnections: PLENTY,
    inboundConnectionThreshold: PLENTY
  },
  // It would open a ping stream on every connection every ten seconds. yamux's own keep-alive stays on, as in fabstird.
  connectionMonitor: { enabled: false }
})

const libp2p = JSON.parse(readFileSync(new URL('../node_modules/libp2p/package.json', import.meta.url), 'utf8'))

const COMMANDS = {
  about: () => ({
    addresses: node.getMultiaddrs().map(String),
    version: `js-libp2p ${libp2p.version} on Node ${process.versions.node}`
  }),
  status: () => ({ peers: node.getPeers().length }),
  gc: () => { globalThis.gc() },
  stop: () => node.stop()
}

for await (const line of createInterface({ input: process.stdin })) {
  const result = await COMMANDS[JSON.parse(line).method]()
  process.stdout.write(`${JSON.stringify({ result: result ?? null })}\n`)
}
process.exit(0)
