// A libp2p peer that does what it is told: one JSON command a line on stdin, one JSON answer or event a line on stdout.
// The protocol is described in ../README.md and is the same for every implementation. Logs go to stderr.

import { readFileSync } from 'node:fs'
import { createServer } from 'node:https'
import { createInterface } from 'node:readline'

import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { generateKeyPairFromSeed } from '@libp2p/crypto/keys'
import { identify, identifyPush } from '@libp2p/identify'
import { kadDHT, passthroughMapper } from '@libp2p/kad-dht'
import { mdns } from '@libp2p/mdns'
import { peerIdFromString } from '@libp2p/peer-id'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { tls } from '@libp2p/tls'
import { webSockets } from '@libp2p/websockets'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'

import { VERSION, handler, identifying, named } from './differences.mjs'
import { ECHO, STREAM_COMMANDS, releaseHeld, serving } from './streams.mjs'

console.log = console.error // stdout belongs to the protocol

const IDENTIFY = '/ipfs/id/1.0.0'
const IDENTIFY_PUSH = '/ipfs/id/push/1.0.0'
const PING = '/ipfs/ping/1.0.0'
const KAD = '/ipfs/kad/1.0.0'

const DEFAULT_TIMEOUT = 10_000 // ms, for a command that names none
const CLOSE_TIMEOUT = 2_000 // ms that a clean stop may take
const MAX_STREAMS = 256 // per protocol and connection: the library's 1 would make a test's ping compete with its own

// ---------------------------------------------------------------------------------------------------------------------
// options

const OPTIONS = {
  listen: [],
  agentVersion: undefined,
  autonat: undefined,
  dht: undefined,
  mdns: false,
  mdnsInterval: undefined,
  protocols: [IDENTIFY, IDENTIFY_PUSH, PING, ECHO],
  security: ['noise'],
  seed: undefined,
  webCertificate: undefined,
  webKey: undefined
}

const SECURITY = { noise, tls }

function readOptions (text) {
  const given = JSON.parse(text)
  for (const name of Object.keys(given)) {
    if (!(name in OPTIONS)) {
      throw new Error(`unknown option "${name}"`)
    }
  }
  if (![undefined, 'client', 'server'].includes(given.dht)) {
    throw new Error('"dht" must be "client" or "server"')
  }
  if (![undefined, 1, 2].includes(given.autonat)) {
    throw new Error('"autonat" must be 1 or 2')
  }
  for (const name of given.security ?? []) {
    if (!(name in SECURITY)) {
      throw new Error('"security" may have "noise" and "tls"')
    }
  }
  return { ...OPTIONS, ...given }
}

// ---------------------------------------------------------------------------------------------------------------------
// output

function send (message) {
  process.stdout.write(`${JSON.stringify(message)}\n`)
}

process.stdout.on('error', () => process.exit(1)) // nobody listens any more

/** An error in words, with those of every address tried where a dial gathers them. */
function words (error) {
  const text = `${error?.name ?? 'Error'}: ${error?.message ?? error}`
  const causes = error?.errors ?? (error?.cause == null ? [] : [error.cause])
  return causes.length === 0 ? text : `${text} (${causes.map(words).join('; ')})`
}

// ---------------------------------------------------------------------------------------------------------------------
// the node

/** QUIC is native code; its package has none for some machines, and there the peer does without. */
async function quicTransport () {
  try {
    const { quic } = await import('@chainsafe/libp2p-quic')
    return [quic()]
  } catch (error) {
    console.error('no QUIC:', words(error))
    return []
  }
}

/** WebSocket, inside TLS on addresses that say so, where there is a certificate; 1.x has `server`, later ones `https`. */
function webTransport ({ webCertificate, webKey }) {
  if (webCertificate === undefined) {
    return webSockets()
  }
  const https = { cert: readFileSync(webCertificate), key: readFileSync(webKey) }
  return webSockets({ https, server: createServer(https) })
}

/** mDNS whose every find is told: the node itself tells of a peer only the first time that anything speaks of it. */
function watchedMdns (options) {
  return components => {
    const discovery = mdns({ interval: options.mdnsInterval })(components)
    discovery.addEventListener('peer', ({ detail }) => {
      send({ event: 'mdns', peerId: detail.id.toString(), addresses: detail.multiaddrs.map(String) })
    })
    return discovery
  }
}

async function startNode (options) {
  const services = {}
  const limits = { maxInboundStreams: MAX_STREAMS, maxOutboundStreams: MAX_STREAMS }
  if (options.protocols.includes(IDENTIFY)) {
    services.identify = identify(identifying(limits, options.agentVersion))
  }
  if (options.protocols.includes(IDENTIFY_PUSH)) {
    services.identifyPush = identifyPush(identifying(limits, options.agentVersion))
  }
  if (options.protocols.includes(PING)) {
    services.ping = ping(limits)
  }
  if (options.autonat === 1) {
    const { autoNAT } = await import('@libp2p/autonat') // with js-libp2p 2.10 alone
    services.autonat = autoNAT()
  }
  if (options.autonat === 2) {
    const { autoNATv2 } = await import('@libp2p/autonat-v2') // with js-libp2p 3.3 alone
    services.autonat = autoNATv2()
  }
  if (options.dht !== undefined) {
    services.dht = kadDHT({
      protocol: KAD,
      clientMode: options.dht === 'client',
      peerInfoMapper: passthroughMapper, // the addresses of tests are private
      allowQueryWithZeroPeers: true, // else a query waits until the first look for itself has ended
      initialQuerySelfInterval: 0
    })
  }

  const node = await createLibp2p(named({
    start: false,
    addresses: { listen: options.listen },
    transports: [tcp(), webTransport(options), ...await quicTransport()],
    connectionEncrypters: options.security.map(name => SECURITY[name]()),
    streamMuxers: [yamux()],
    // every test's peers share 127.0.0.1: the library's five inbound connections a second are for strangers
    connectionManager: { inboundConnectionThreshold: 1_000 },
    ...(options.agentVersion == null ? {} : { nodeInfo: { userAgent: options.agentVersion } }),
    ...(options.seed == null ? {} : { privateKey: await generateKeyPairFromSeed('Ed25519', Buffer.from(options.seed, 'hex')) }),
    peerDiscovery: options.mdns ? [watchedMdns(options)] : [],
    services
  }))

  const others = options.protocols.filter(name => ![IDENTIFY, IDENTIFY_PUSH, PING].includes(name))
  for (const name of others) {
    await node.handle(name, handler(serving(name, { send, words })), limits)
  }
  return node
}

function describeIdentify (result) {
  return {
    peerId: result.peerId.toString(),
    agentVersion: result.agentVersion ?? null,
    protocolVersion: result.protocolVersion ?? null,
    protocols: result.protocols,
    addresses: result.listenAddrs.map(String),
    observedAddr: result.observedAddr == null ? null : result.observedAddr.toString(),
    signedPeerRecord: result.signedPeerRecord != null
  }
}

function describeConnection (connection) {
  return {
    address: connection.remoteAddr.toString(),
    direction: connection.direction,
    encryption: connection.encryption ?? null,
    multiplexer: connection.multiplexer ?? null,
    streams: connection.streams.length
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// the commands: (node, args, signal) => result

function need (args, name, type) {
  if (typeof args[name] !== type) {
    throw new TypeError(`"${name}" must be a ${type}`)
  }
  return args[name]
}

function bytesOf (args, name) {
  return new Uint8Array(Buffer.from(need(args, name, 'string'), 'base64'))
}

/** A content id is looked at for its multihash only, and so the key may be any bytes. */
function contentId (args) {
  const bytes = bytesOf(args, 'key')
  return { bytes, multihash: { bytes }, toString: () => args.key }
}

function dhtOf (node) {
  if (node.services.dht == null) {
    throw new Error('this peer was started without the option dht')
  }
  return node.services.dht
}

function connectionTo (node, args) {
  const peerId = peerIdFromString(need(args, 'peerId', 'string'))
  const connection = node.getConnections(peerId).find(candidate => candidate.status === 'open')
  if (connection == null) {
    throw new Error(`not connected to ${peerId}`)
  }
  return connection
}

const COMMANDS = {
  async dial (node, args, signal) {
    const connection = await node.dial(multiaddr(need(args, 'address', 'string')), { signal, force: args.force === true })
    return { peerId: connection.remotePeer.toString(), ...describeConnection(connection) }
  },

  async ping (node, args, signal) {
    const { remotePeer } = connectionTo(node, args)
    const start = performance.now()
    await node.services.ping.ping(remotePeer, { signal })
    return { rtt: performance.now() - start }
  },

  async identify (node, args, signal) {
    return describeIdentify(await node.services.identify.identify(connectionTo(node, args), { signal }))
  },

  async peerInfo (node, args) {
    const known = identified.get(need(args, 'peerId', 'string'))
    if (known == null) {
      throw new Error(`${args.peerId} has not been identified`)
    }
    return known
  },

  async peers (node) {
    return node.getPeers().map(peerId => {
      const connections = node.getConnections(peerId).map(describeConnection)
      return { peerId: peerId.toString(), connectionCount: connections.length, connections }
    })
  },

  ...Object.fromEntries(Object.entries(STREAM_COMMANDS).map(([name, command]) => [
    name, (node, args, signal) => command(connectionTo(node, args), args, signal)
  ])),

  async release () {
    releaseHeld()
    return {}
  },

  async disconnect (node, args, signal) {
    const peerId = peerIdFromString(need(args, 'peerId', 'string'))
    const closed = node.getConnections(peerId).length
    await node.hangUp(peerId, { signal })
    return { peerId: peerId.toString(), closed }
  },

  async addresses (node) {
    return { peerId: node.peerId.toString(), addresses: node.getMultiaddrs().map(String) }
  },

  /** Own addresses that others have dialled back. */
  async verified (node) {
    const known = node.components.addressManager.getAddressesWithMetadata()
    return { addresses: known.filter(one => one.verified).map(one => one.multiaddr.toString()) }
  },

  async dhtAddPeer (node, args, signal) {
    const dht = dhtOf(node)
    const { remotePeer } = await node.dial(multiaddr(need(args, 'address', 'string')), { signal })
    await dht.routingTable.add(remotePeer, { signal })
    return { peerId: remotePeer.toString() }
  },

  async dhtPeers (node) {
    return { peers: [...dhtOf(node).routingTable.kb.toIterable()].map(({ peerId }) => peerId.toString()) }
  },

  async dhtBootstrap (node, args, signal) {
    await dhtOf(node).refreshRoutingTable({ signal })
    return {}
  },

  async dhtFindPeer (node, args, signal) {
    const peerId = peerIdFromString(need(args, 'peerId', 'string'))
    for await (const event of dhtOf(node).findPeer(peerId, { signal })) {
      if (event.name === 'FINAL_PEER') {
        return { peerId: peerId.toString(), addresses: event.peer.multiaddrs.map(String) }
      }
    }
    throw new Error(`${peerId} was not found`)
  },

  async dhtPut (node, args, signal) {
    const errors = []
    let stored = 0
    for await (const event of dhtOf(node).put(bytesOf(args, 'key'), bytesOf(args, 'value'), { signal })) {
      stored += event.name === 'PEER_RESPONSE' && event.messageName === 'PUT_VALUE' ? 1 : 0
      if (event.name === 'QUERY_ERROR') {
        errors.push(event.error)
      }
    }
    if (stored === 0) {
      throw new AggregateError(errors, 'no other peer has stored it')
    }
    return {}
  },

  async dhtGet (node, args, signal) {
    for await (const event of dhtOf(node).get(bytesOf(args, 'key'), { signal })) {
      if (event.name === 'VALUE') {
        return { value: Buffer.from(event.value).toString('base64') }
      }
    }
    throw new Error('no such record was found')
  },

  async dhtProvide (node, args, signal) {
    for await (const event of dhtOf(node).provide(contentId(args), { signal })) {
      if (event.name === 'QUERY_ERROR') {
        console.error('dhtProvide:', words(event.error))
      }
    }
    return {}
  },

  async dhtFindProviders (node, args, signal) {
    const providers = new Map()
    for await (const event of dhtOf(node).findProviders(contentId(args), { signal })) {
      if (event.name === 'PROVIDER') {
        for (const { id, multiaddrs } of event.providers) {
          providers.set(id.toString(), multiaddrs.map(String))
        }
      }
    }
    return { providers: [...providers].map(([peerId, addresses]) => ({ peerId, addresses })) }
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// the program

const identified = new Map() // peer id -> what its last identify said

let stopping
function stop (node, status) {
  stopping ??= (async () => {
    const bound = setTimeout(() => process.exit(1), CLOSE_TIMEOUT)
    try {
      await node?.stop()
    } catch (error) {
      console.error('stop:', words(error))
    }
    clearTimeout(bound)
    process.exit(status)
  })()
}

async function obey (node, line) {
  let request
  try {
    request = JSON.parse(line)
    if (request === null || typeof request !== 'object') {
      throw new Error('a command is a JSON object')
    }
  } catch (error) {
    send({ id: null, ok: false, error: words(error) })
    return
  }
  const { id = null, cmd, ...args } = request
  if (cmd === 'exit') {
    send({ id, ok: true, result: {} })
    stop(node, 0)
    return
  }
  try {
    if (!Object.hasOwn(COMMANDS, cmd)) {
      throw new Error(`unknown command "${cmd}"`)
    }
    const signal = AbortSignal.timeout(args.timeout ?? DEFAULT_TIMEOUT)
    send({ id, ok: true, result: await COMMANDS[cmd](node, args, signal) })
  } catch (error) {
    send({ id, ok: false, error: words(error) })
  }
}

async function main () {
  const lines = createInterface({ input: process.stdin, crlfDelay: Infinity })[Symbol.asyncIterator]()
  const text = process.argv[2] ?? (await lines.next()).value
  if (text === undefined) {
    process.exit(0)
  }
  const node = await startNode(readOptions(text))

  node.addEventListener('peer:connect', ({ detail }) => send({ event: 'connect', peerId: detail.toString() }))
  node.addEventListener('peer:disconnect', ({ detail }) => send({ event: 'disconnect', peerId: detail.toString() }))
  node.addEventListener('peer:identify', ({ detail }) => {
    const described = describeIdentify(detail)
    identified.set(described.peerId, described)
    send({ event: 'identify', ...described })
  })

  await node.start()
  for (const signal of ['SIGTERM', 'SIGINT']) {
    process.on(signal, () => stop(node, 0))
  }
  send({
    event: 'ready',
    peerId: node.peerId.toString(),
    addresses: node.getMultiaddrs().map(String),
    implementation: `js-libp2p/${VERSION}`,
    runtime: `node/${process.versions.node}`
  })

  for (;;) {
    const { value, done } = await lines.next()
    if (done) {
      break
    }
    if (value.trim() !== '') {
      obey(node, value) // not awaited: commands overlap, and each answers by its id
    }
  }
  stop(node, 0)
}

main().catch(error => {
  console.error(error)
  process.exit(1)
})
