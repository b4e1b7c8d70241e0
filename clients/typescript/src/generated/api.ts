// Made from docs/openrpc.json by `make docs`. Do not edit.

// ---- Types of parameters, results, events and errors

/** What `start(config)` may override for one run: keys of `[node]`, in camelCase. */
export interface NodeOverrides {
  /** multiaddrs with /p2p/<peer id> */
  bootstrapNodes?: string[] | null | undefined;
  /** multiaddrs; port 0 takes a free one */
  listenAddresses?: string[] | null | undefined;
  /** [node] enable_dht */
  enableDHT?: boolean | null | undefined;
  /** [node] enable_mdns */
  enableMDNS?: boolean | null | undefined;
  /** ms, applied to every dial */
  dialTimeout?: number | null | undefined;
  /** ms, for every call that sets no timeout itself */
  requestTimeout?: number | null | undefined;
  /** re-dials after the first failed dial of a bootstrap node */
  maxRetries?: number | null | undefined;
  /** ms before the first re-dial; doubles each time */
  retryDelay?: number | null | undefined;
}

export interface Config {
  node: NodeConfig;
  connections: ConnectionsConfig;
  tls: TlsConfig;
  proxy: ProxyConfig;
  nat: NatConfig;
  relay: RelayConfig;
  api: ApiConfig;
  events: EventsConfig;
  streams: StreamsConfig;
  tunnels: TunnelsConfig;
  dht: DhtConfig;
  log: LogConfig;
}

export interface NodeConfig {
  auto_start: boolean;
  listen_addresses: string[];
  announce_addresses: string[];
  announce_append: string[];
  bootstrap_nodes: string[];
  security: ("noise" | "tls")[];
  enable_dht: boolean;
  enable_mdns: boolean;
  dial_timeout: number;
  request_timeout: number;
  max_retries: number;
  retry_delay: number;
  keepalive_interval: number;
}

export interface ConnectionsConfig {
  low_water: number;
  high_water: number;
  max: number;
  max_per_ip: number;
  max_new_per_ip: number;
  grace_period: number;
  handshake_timeout: number;
  ping_interval: number;
  ping_timeout: number;
  idle_refresh: number;
}

export interface TlsConfig {
  certificate: string;
  key: string;
}

export interface ProxyConfig {
  trusted: string[];
}

export interface NatConfig {
  hole_punching: boolean;
  port_mapping: boolean;
  autonat_service: boolean;
}

export interface RelayConfig {
  nodes: string[];
  serve: boolean;
  max_reservations: number;
  max_circuits: number;
  circuit_duration: number;
  circuit_bytes: number;
}

export interface ApiConfig {
  ipc: string;
  ipc_mode: string;
  ipc_group_access: "admin" | "read" | "write";
  http: string;
  allowed_hosts: string[];
  allowed_origins: string[];
  max_request_bytes: number;
  max_batch: number;
  max_request_values: number;
  max_answer_bytes: number;
  max_calls: number;
  max_subscriptions: number;
  max_ipc_connections: number;
  max_http_connections: number;
  max_send_queue_bytes: number;
  send_timeout: number;
  header_timeout: number;
  body_timeout: number;
  idle_timeout: number;
  ping_interval: number;
  max_tokens: number;
  bridge: boolean;
  ui: boolean;
}

export interface EventsConfig {
  history: number;
  max_bytes: number;
  heartbeat: number;
}

export interface StreamsConfig {
  max_message_bytes: number;
  max_waiting: number;
  max_open: number;
  max_open_per_peer: number;
  perf: boolean;
}

export interface TunnelsConfig {
  allow: string[];
}

export interface DhtConfig {
  mode: "auto" | "client" | "server";
  max_value_bytes: number;
  discover_ttl: number;
}

export interface LogConfig {
  level: "debug" | "error" | "info" | "warning";
  format: "auto" | "console" | "json";
}

/** Sent in place of events that are missing. */
export interface LaggedNotice {
  /** how many; null if they were of an earlier run of the daemon, so their number is unknown */
  missed: number | null;
  /** number of the next event */
  resume: number;
  /** its name, valid on its connection */
  subscription: string;
}

/** Sent when nothing has happened for a while. Every requested event up to `head` has been sent. */
export interface Heartbeat {
  /** its name, valid on its connection */
  subscription: string;
  /** number of the newest event */
  head: number;
}

/**
 * A peer has opened a stream on a protocol that this connection handles as streams. Accept it with
 * `stream.accept` on a new connection; a stream that is not accepted in time is reset.
 */
export interface StreamIncoming {
  /** identifies a stream */
  streamId: string;
  /** a peer's id: base58btc text, such as 12D3KooW… */
  peerId: string;
  /** protocol id, such as /ipfs/ping/1.0.0 */
  protocol: string;
  /** of the connection that carries it */
  address: string;
  /** when it is reset unless it has been accepted */
  deadline: number;
}

/** A stream that a peer had opened has ended. */
export interface StreamClosed {
  /** identifies a stream */
  streamId: string;
  /** how it ended */
  outcome: "ended" | "limit" | "peer_gone" | "peer_reset" | "reset" | "shutdown" | "stopped" | "timeout";
  /** received from the peer and passed to the local end */
  bytesIn: number;
  /** sent to the peer by the local end */
  bytesOut: number;
}

/**
 * A peer has sent a message on a protocol that this connection handles. `data` is left out if it is larger than 4
 * KiB; `protocol.read` returns it.
 */
export interface ProtocolRequest {
  /** identifies it in `protocol.respond` */
  requestId: string;
  /** a peer's id: base58btc text, such as 12D3KooW… */
  peerId: string;
  /** protocol id, such as /ipfs/ping/1.0.0 */
  protocol: string;
  /** bytes */
  size: number;
  /** when its stream is reset unless it has been answered */
  deadline: number;
  /** base64 */
  data?: string | undefined;
}

/** A request was answered, or can no longer be answered. */
export interface ProtocolEnded {
  /** from its `protocol.request` */
  requestId: string;
  /** ended: it was answered; reset: this connection no longer handles the protocol */
  outcome: "ended" | "limit" | "peer_gone" | "peer_reset" | "reset" | "shutdown" | "stopped" | "timeout";
}

export interface NodeNotRunningData {
  /** the symbolic code, which never changes; the message is for people, and may change */
  code: string;
  /** whether the same call may succeed later without being changed */
  retryable: boolean;
  /** of the node */
  state: "failed" | "started" | "starting" | "stopped" | "stopping";
}

export interface TimeoutData {
  /** the symbolic code, which never changes; the message is for people, and may change */
  code: string;
  /** whether the same call may succeed later without being changed */
  retryable: boolean;
  /** the deadline that passed, ms */
  timeout: number;
  /** the peer that the call was about */
  peerId?: string | undefined;
}

/** The `data` of an error that is caused by a limit. */
export interface LimitData {
  /** the symbolic code, which never changes; the message is for people, and may change */
  code: string;
  /** whether the same call may succeed later without being changed */
  retryable: boolean;
  /** the most that is allowed */
  limit: number;
  /** how much there is, or would have been */
  current: number;
  /** the configuration key that sets the limit; null if it cannot be configured */
  configKey: string | null;
  /** the peer whose message was too large */
  peerId?: string | undefined;
}

export interface PeerNotFoundData {
  /** the symbolic code, which never changes; the message is for people, and may change */
  code: string;
  /** whether the same call may succeed later without being changed */
  retryable: boolean;
  /** a peer's id: base58btc text, such as 12D3KooW… */
  peerId: string;
}

export interface DialFailedData {
  /** the symbolic code, which never changes; the message is for people, and may change */
  code: string;
  /** whether the same call may succeed later without being changed */
  retryable: boolean;
  /** a peer's id: base58btc text, such as 12D3KooW… */
  peerId: string;
  /** the error in words, by the address that was tried */
  errors: Record<string, string>;
}

export interface InvalidStateData {
  /** the symbolic code, which never changes; the message is for people, and may change */
  code: string;
  /** whether the same call may succeed later without being changed */
  retryable: boolean;
  /** the peer that the call was about */
  peerId?: string | undefined;
  /** the protocol that the call was about */
  protocol?: string | undefined;
  /** "protocol": the peer does not speak it; "stream": the stream broke */
  reason?: "protocol" | "stream" | undefined;
  /** a peer's request that is no longer waiting */
  requestId?: string | undefined;
  /** a tunnel that does not exist */
  tunnelId?: string | undefined;
  /** a stream that does not exist, or is no longer waiting */
  streamId?: string | undefined;
  /** false if the change is in effect, but could not be written to disk */
  saved?: boolean | undefined;
}

export interface ForbiddenData {
  /** the symbolic code, which never changes; the message is for people, and may change */
  code: string;
  /** whether the same call may succeed later without being changed */
  retryable: boolean;
  /** the method that was refused */
  method: string;
  /** the access level that it needs */
  needed: "admin" | "read" | "write";
  /** the caller's level; none if its token has ended */
  granted: "admin" | "none" | "read" | "write";
  /** the configuration key that would allow it, if there is one */
  configKey?: string | undefined;
  /** the methods that the caller's token allows, if they are the reason */
  methods?: string[] | undefined;
  /** the protocol patterns that the token allows, if they are the reason */
  protocols?: string[] | undefined;
  /** ids of the peers that the token allows, if they are the reason */
  peers?: string[] | undefined;
}

export interface FeatureDisabledData {
  /** the symbolic code, which never changes; the message is for people, and may change */
  code: string;
  /** whether the same call may succeed later without being changed */
  retryable: boolean;
  /** the configuration key that enables the feature */
  configKey: string;
}

export interface ListenFailedData {
  /** the symbolic code, which never changes; the message is for people, and may change */
  code: string;
  /** whether the same call may succeed later without being changed */
  retryable: boolean;
  /** the address that could not be listened on */
  address: string;
  /** in words */
  reason: string;
}

export interface StreamFailedData {
  /** the symbolic code, which never changes; the message is for people, and may change */
  code: string;
  /** whether the same call may succeed later without being changed */
  retryable: boolean;
  /** a peer's id: base58btc text, such as 12D3KooW… */
  peerId: string;
  /** the requested protocols, separated by commas */
  protocol: string;
  /** how it failed */
  reason: "busy" | "gone" | "refused" | "reset" | "timeout" | "unsupported";
}

/** The `data` of every error. */
export interface ErrorData {
  /** the symbolic code, which never changes; the message is for people, and may change */
  code: string;
  /** whether the same call may succeed later without being changed */
  retryable: boolean;
}

export interface MethodNotFoundData {
  /** the symbolic code, which never changes; the message is for people, and may change */
  code: string;
  /** whether the same call may succeed later without being changed */
  retryable: boolean;
  /** the method called; left out if it exists, but not on this transport */
  method?: string | undefined;
}

export interface InvalidParamsData {
  /** the symbolic code, which never changes; the message is for people, and may change */
  code: string;
  /** whether the same call may succeed later without being changed */
  retryable: boolean;
  /** the invalid parameter; left out if the number of parameters is wrong */
  param?: string | undefined;
  /** one line for each mistake, if a parameter can have several */
  mistakes?: string[] | undefined;
  /** number of the newest event, if `after` is beyond it */
  head?: number | undefined;
}

export interface InternalErrorData {
  /** the symbolic code, which never changes; the message is for people, and may change */
  code: string;
  /** whether the same call may succeed later without being changed */
  retryable: boolean;
  /** identifies the entry with the details in the daemon's log */
  logId: string;
}

/** The node listens. Not repeated by a `start` while it is started. */
export interface NodeStarted {
  /** a peer's id: base58btc text, such as 12D3KooW… */
  peerId: string;
  /** where the node listens, as multiaddrs with real ports and /p2p/<peer id> */
  listenAddresses: string[];
}

/** The node has stopped; no event of a peer or a connection follows. */
export interface NodeStopped {
  /** a peer's id: base58btc text, such as 12D3KooW… */
  peerId: string;
}

/** A peer's first connection is up. Further connections to the same peer publish no event. */
export interface PeerConnected {
  /** a peer's id: base58btc text, such as 12D3KooW… */
  peerId: string;
  /** multiaddr */
  address: string;
  /** which side dialled */
  direction: "inbound" | "outbound";
}

/** A peer's last connection has ended. */
export interface PeerDisconnected {
  /** a peer's id: base58btc text, such as 12D3KooW… */
  peerId: string;
  /** of its last connection */
  reason: "closed_by_peer" | "closed" | "reset" | "timeout" | "dead" | "trimmed" | "banned" | "limit" | "stopped" | "shutdown" | "error" | "duplicate";
  /** ms since it was connected */
  duration: number;
}

/**
 * The identify protocol has finished: the peer has described itself. Published again when the description
 * changes.
 */
export interface PeerIdentified {
  /** a peer's id: base58btc text, such as 12D3KooW… */
  peerId: string;
  /** the software that the peer says it runs */
  agentVersion: string;
  /** the protocol family that the peer says it belongs to */
  protocolVersion: string;
  /** protocol ids that it answers */
  protocols: string[];
  /** multiaddrs */
  addresses: string[];
}

/**
 * A peer that was reached through a relay now has a direct connection. New streams use that, and the relayed
 * connection closes once it has no streams left.
 */
export interface PeerPath {
  /** a peer's id: base58btc text, such as 12D3KooW… */
  peerId: string;
  /** the address through the relay */
  from: string;
  /** the direct address */
  to: string;
  /** ms since the relayed connection came up */
  took: number;
}

/** The router forwards one of its addresses to this node (port mapping). Not repeated when the lease is renewed. */
export interface NatMapped {
  /** the external address, with /p2p/ */
  address: string;
  /** the mapped protocol */
  protocol: "tcp" | "udp";
  /** how the router was asked */
  method: "pcp" | "nat-pmp" | "upnp";
  /** when the lease ends; it is renewed well before. Left out if the router sets no end */
  expires?: number | undefined;
}

/**
 * A port mapping has ended: removed because the node stops, not renewed by the router, or left behind in another
 * network.
 */
export interface NatUnmapped {
  /** the external address */
  address: string;
  /** the mapped protocol */
  protocol: "tcp" | "udp";
  /** how the router was asked */
  method: "pcp" | "nat-pmp" | "upnp";
  /** when the router will forget it, unless it already has */
  expires?: number | undefined;
}

/** A dial of a bootstrap node failed, and will be retried. */
export interface ConnectionRetry {
  /** multiaddr */
  address: string;
  /** number of the next retry, 1 to maxRetries */
  attempt: number;
  /** [node] max_retries */
  maxRetries: number;
  /** ms until the retry: retryDelay * 2 ** (attempt - 1) */
  delay: number;
  /** the error in words */
  error: string;
}

/** The last dial of a bootstrap node's cycle failed too. The next cycle begins after [node] keepalive_interval. */
export interface ConnectionFailed {
  /** multiaddr */
  address: string;
  /** number of dials: 1 + maxRetries */
  attempts: number;
  /** in words */
  reason: "Max retries exceeded";
  /** of the last dial, in words */
  error: string;
}

/** A stop has cancelled the dials of a bootstrap node. Published once for each address, before p2p:stopped. */
export interface ConnectionCancelled {
  /** multiaddr */
  address: string;
  /** number of dials begun */
  attempts: number;
}

/** The first dial of a bootstrap node's cycle failed. */
export interface BootstrapError {
  /** which one */
  type: "BOOTSTRAP_CONNECTION_FAILED";
  /** multiaddr */
  address: string;
  /** in words */
  message: string;
}

/** This node has begun to answer other nodes, or has stopped answering them. */
export interface DhtModeChanged {
  /** a server answers other nodes, a client only asks */
  mode: "client" | "server";
}

/** A search has found a provider, and continues. */
export interface ProviderFound {
  /** of the search */
  queryId: string;
  /** base64 */
  key: string;
  /** a peer's id: base58btc text, such as 12D3KooW… */
  peerId: string;
  /** multiaddrs with /p2p/ */
  addresses: string[];
}

/** A peer has returned a value, and the search continues. */
export interface ValueFound {
  /** of the search */
  queryId: string;
  /** base64 */
  key: string;
  /** the peer that returned it */
  peerId: string;
  /** bytes of the value */
  size: number;
}

/**
 * A node must match all given filters. A node whose price, latency or reputation is unknown does not match a
 * filter on it.
 */
export interface DiscoverFilters {
  /** an integer in decimal digits */
  maxPrice?: string | null | undefined;
  /** ms, as measured by this node */
  maxLatency?: number | null | undefined;
  /** as the node states it */
  minReputation?: number | null | undefined;
  /** peer ids to list first, in this order */
  preferredNodes?: string[] | null | undefined;
  /** peer ids to leave out */
  excludeNodes?: string[] | null | undefined;
}

export interface BridgeFilter {
  /** such as names of models; a node must provide all of them */
  capabilities?: string[] | null | undefined;
  /** as nodes state it; a node whose reputation is unknown does not match */
  minReputation?: number | null | undefined;
}

export interface Status {
  /** of the node */
  state: "failed" | "started" | "starting" | "stopped" | "stopping";
  /** the node is started, peers or not */
  connected: boolean;
  /** a peer's id: base58btc text, such as 12D3KooW… */
  peerId: string;
  /** how many connections are open */
  connections: number;
  /** how many peers are connected */
  peers: number;
  /** the bootstrap nodes in effect, as multiaddrs */
  bootstrapNodes: string[];
  /** where the node listens, as multiaddrs with real ports and /p2p/<peer id> */
  listenAddresses: string[];
  /** of fabstird */
  version: string;
  /** names the daemon run; event numbers are only comparable within one */
  epoch: string;
  /** seq of the newest event */
  head: number;
  /** instant, while started */
  startTime?: number | undefined;
  /** ms since start_time, by a clock that does not jump */
  uptime?: number | undefined;
  /** why the state is "failed" */
  error?: string | undefined;
}

export interface Peer {
  /** a peer's id: base58btc text, such as 12D3KooW… */
  peerId: string;
  /** of its oldest connection */
  direction: "inbound" | "outbound";
  /** instant */
  connectedAt: number;
  /** known ones, identify's included, with /p2p/ */
  addresses: string[];
  /** oldest first */
  connections: Connection[];
  /** ids of the protocols that it handles, from identify */
  protocols: string[];
  /** values by tag; trimming spares peers with high sums */
  tags: Record<string, number>;
  /** whether it is never trimmed, whatever its tags */
  protected: boolean;
  /** whether it is one of the bootstrap nodes */
  bootstrap: boolean;
  /** over the connections that are open; 0 from an older daemon */
  bytesIn?: number | undefined;
  /** over the connections that are open; 0 from an older daemon */
  bytesOut?: number | undefined;
  /** known once identify has finished */
  agentVersion?: string | undefined;
  /** the protocol family that the peer says it belongs to */
  protocolVersion?: string | undefined;
  /** ms, smoothed round trip, once measured */
  latency?: number | undefined;
}

export interface Connection {
  /** of the other end */
  address: string;
  /** which side dialled */
  direction: "inbound" | "outbound";
  /** instant */
  openedAt: number;
  /** tcp, ws, … */
  transport: "tcp" | "ws" | "wss" | "quic-v1" | "p2p-circuit";
  /** e.g. "/noise" */
  security: string;
  /** e.g. "/yamux/1.0.0" */
  muxer: string;
  /** number of open streams */
  streams: number;
  /** of all its streams, with the muxer's own; 0 from an older daemon */
  bytesIn?: number | undefined;
  /** of all its streams, with the muxer's own; 0 from an older daemon */
  bytesOut?: number | undefined;
  /** the peer id of the relay that a connection of transport p2p-circuit leads through */
  relay?: string | undefined;
}

export interface Addresses {
  /** a peer's id: base58btc text, such as 12D3KooW… */
  peerId: string;
  /** actual interface addresses and ports */
  listen: string[];
  /** sent to other peers by identify */
  announced: string[];
  /** where connected peers see this node */
  observed: string[];
  /** of each address that is listened on or announced */
  reachability: AddressReachability[];
  /** null while the node is not started */
  portMapping?: PortMapping | undefined;
}

export interface AddressReachability {
  /** multiaddr */
  address: string;
  /**
   * "reachable": several servers have dialled it lately; "relayed": it leads through a relay that lets peers in;
   * "unknown": neither, which is all that can be said of an address in a private network
   */
  state: "reachable" | "relayed" | "unknown";
  /** when a server last tried to dial it */
  checkedAt?: number | undefined;
  /**
   * how it is known: "interface", the node listens there; "mapped", the router forwards it to the node;
   * "observed", peers see the node there; "announced", it is configured; "relay", it leads through one
   */
  from?: ("announced" | "interface" | "mapped" | "observed" | "relay")[] | undefined;
  /** as `state`, but "unreachable" if several servers dialled it lately and none got through */
  reachable?: "reachable" | "relayed" | "unknown" | "unreachable" | undefined;
  /** servers that have dialled it lately, 16 at most; 0 from an older daemon */
  confirmedBy?: number | undefined;
}

/** Whether the router forwards connections from outside to this node. */
export interface PortMapping {
  /**
   * "off": [nat] port_mapping is false; "idle": there is nothing to ask for, or nobody to ask; "asking": the
   * first round is under way; "mapped": it does; "refused": no port is mapped, and the router is asked again
   */
  state: "asking" | "idle" | "mapped" | "off" | "refused";
  /** the router's address in the local network */
  gateway?: string | undefined;
  /** how it was asked, where it maps */
  method?: "pcp" | "nat-pmp" | "upnp" | undefined;
  /** in words, why nothing or not everything is mapped, or how useful the mapping is */
  reason?: string | undefined;
}

export interface Metrics {
  /** whether the node is started, with peers or without */
  connected: boolean;
  /** a peer's id: base58btc text, such as 12D3KooW… */
  peerId: string;
  /** how many connections are open */
  connections: number;
  /** connected peers */
  totalPeers: number;
  /** peer ids */
  connectedPeers: string[];
  /** where the node listens, as multiaddrs with real ports and /p2p/<peer id> */
  listenAddresses: string[];
  /** the bootstrap nodes in effect, as multiaddrs */
  bootstrapNodes: string[];
  /** dials that failed, except of peers known only from the DHT */
  failedConnections: number;
  /** connections that came up */
  successfulConnections: number;
  /** of those */
  inboundConnections: number;
  /** of those */
  outboundConnections: number;
  /** re-dials of bootstrap nodes begun */
  retries: number;
  /** inbound connections that did not get through Noise and Yamux */
  handshakesFailed: number;
  /** inbound connections refused by a limit */
  refusedConnections: number;
  /** stream handlers that raised, e.g. at garbage from a peer */
  streamErrors: number;
  /** defects of this daemon, by what they ended: a stream, a dial, a connection …; see the log */
  caught: Record<string, number>;
  /** since the daemon started */
  eventsPublished: number;
  /** by connections, on the wire */
  bytesReceived: number;
  /** by connections, on the wire */
  bytesSent: number;
  /** everything that is bounded in number */
  bounds: Record<string, Bound>;
  /** messages by what became of them: sent, sendFailed, received, garbage, throttled */
  mdns: Record<string, number>;
  /** refused ones whose IP address came more often than `max_new_per_ip` */
  throttledConnections?: number | undefined;
  /** of users, byte for byte; left out by a daemon that does not count them */
  streams?: StreamTotals | undefined;
  /** when the node was started, in ms since the Unix epoch; left out while it is not started */
  startTime?: number | undefined;
  /** ms since startTime, measured by a monotonic clock */
  uptime?: number | undefined;
}

/** Something that is bounded: the current amount, and the bound. */
export interface Bound {
  /** the current amount */
  current: number;
  /** the most that is allowed */
  limit: number;
}

/** Streams of users, without messages. */
export interface StreamTotals {
  /** whose bytes go both ways, or may */
  open: number;
  /** peers' streams that wait to be accepted */
  waiting: number;
  /** since the daemon started */
  ended: number;
  /** that came from peers, since the daemon started */
  bytesIn: number;
  /** that went to peers, since the daemon started */
  bytesOut: number;
}

export interface ConnectResult {
  /** a peer's id: base58btc text, such as 12D3KooW… */
  peerId: string;
  /** multiaddr */
  address: string;
  /** which side dialled */
  direction: "inbound" | "outbound";
  /** there was a connection, and no dial */
  alreadyConnected: boolean;
}

export interface DisconnectResult {
  /** a peer's id: base58btc text, such as 12D3KooW… */
  peerId: string;
  /** connections closed */
  closed: number;
}

export interface PingResult {
  /** a peer's id: base58btc text, such as 12D3KooW… */
  peerId: string;
  /** ms */
  rtt: number;
}

/** Status and peers at entry `head` of the event log. The events that follow begin right after it. */
export interface SubscribeResult {
  /** its name, valid on its connection */
  subscription: string;
  /** identifies the daemon's run; event numbers can only be compared within one run */
  epoch: string;
  /** number of the newest event */
  head: number;
  /** at that instant */
  status: Status;
  /** at that instant */
  peers: Peer[];
}

export interface UnsubscribeResult {
  /** its name, valid on its connection */
  subscription: string;
}

/** The result of `events`. `missed` is null if the given `epoch` is of another run of the daemon. */
export interface EventsResult {
  /** identifies the daemon's run; event numbers can only be compared within one run */
  epoch: string;
  /** number of the newest event; pass the last of `events` as the next `after`, or this if it is empty */
  head: number;
  /** oldest first */
  events: Event[];
  /** number of dropped events between `after` and the first of `events` */
  missed: number | null;
}

/** The state at the instant at which all conditions held. */
export interface WaitResult {
  status: Status;
  /** how many peers are connected */
  peers: Peer[];
}

export interface VersionResult {
  /** of fabstird */
  version: string;
  /** version of the Python that runs the daemon */
  python: string;
  /** version of py-libp2p */
  libp2p: string;
  /** protocol ids that it answers */
  protocols: string[];
}

/** No content: the method has succeeded. */
export interface Empty {
}

export interface PeerTags {
  /** a peer's id: base58btc text, such as 12D3KooW… */
  peerId: string;
  /** values by tag; trimming spares peers with high sums */
  tags: Record<string, number>;
  /** whether it is never trimmed, whatever its tags */
  protected: boolean;
}

export interface BanResult {
  /** as it is in force */
  ban: BanRecord;
  /** connections that it ended */
  closed: number;
}

export interface BanRecord {
  /** a peer id, or a network in CIDR notation */
  target: string;
  /** instant */
  since: number;
  /** instant; for good where it is missing */
  until?: number | undefined;
  /** in words */
  reason?: string | undefined;
}

export interface UnbanResult {
  /** the peer, address or network that it is about */
  target: string;
  /** false where there was no such ban */
  unbanned: boolean;
}

export interface KeepResult {
  /** a peer's id: base58btc text, such as 12D3KooW… */
  peerId: string;
  /** multiaddr */
  address: string;
  /** true */
  kept: boolean;
  /** how long; permanent if left out */
  lease?: "connection" | undefined;
}

export interface ForgetResult {
  /** that are no longer kept */
  addresses: string[];
}

/** Everything known about a peer, or about an address that names none; `summary` says it in one sentence. */
export interface Explanation {
  /** in one sentence */
  summary: string;
  /** to this peer */
  connected: boolean;
  /** with it, oldest first */
  connections: Connection[];
  /** of it */
  addresses: KnownAddress[];
  /** values by tag; trimming spares peers with high sums */
  tags: Record<string, number>;
  /** whether it is never trimmed, whatever its tags */
  protected: boolean;
  /** whether it is one of the bootstrap nodes */
  bootstrap: boolean;
  /** whether an address of it is kept across restarts */
  kept: boolean;
  /** oldest first */
  timeline: TimelineEntry[];
  /** a peer's id: base58btc text, such as 12D3KooW… */
  peerId?: string | undefined;
  /** that keeps it out */
  ban?: BanRecord | undefined;
  /** ids of the tunnels that want it */
  tunnels?: string[] | undefined;
}

export interface KnownAddress {
  /** multiaddr */
  address: string;
  /** "known": told by it, or dialled before */
  source: "bootstrap" | "kept" | "relay" | "mdns" | "known";
  /** of its cycle */
  state?: "due" | "dialling" | "waiting" | "resting" | "connected" | undefined;
  /** dials begun in this cycle */
  attempts?: number | undefined;
  /** instant */
  nextDial?: number | undefined;
  /** of the last dial, in words */
  lastError?: string | undefined;
}

export interface TimelineEntry {
  /** ms since the Unix epoch */
  time: number;
  /** which kind of thing has happened */
  what: "dial_failed" | "gave_up" | "connected" | "disconnected" | "identified" | "banned" | "unbanned" | "kept" | "forgotten" | "direct" | "stays_relayed" | "hole_punch";
  /** multiaddr */
  address?: string | undefined;
  /** in words */
  detail?: string | undefined;
}

/** After the newline of this answer, the bytes in both directions are the stream. */
export interface OpenedStream {
  /** identifies it in `stream.list` and `stream.reset` */
  streamId: string;
  /** a peer's id: base58btc text, such as 12D3KooW… */
  peerId: string;
  /** the negotiated protocol */
  protocol: string;
  /** of the connection that carries it */
  address: string;
  /** outbound: opened here; inbound: by the peer */
  direction: "inbound" | "outbound";
}

export interface ResetResult {
  /** identifies a stream */
  streamId: string;
  /** true if this call reset it, false if it had already ended */
  reset: boolean;
}

/** A stream. It is listed until a minute after its end. */
export interface StreamRecord {
  /** identifies a stream */
  streamId: string;
  /** a peer's id: base58btc text, such as 12D3KooW… */
  peerId: string;
  /** protocol id, such as /ipfs/ping/1.0.0 */
  protocol: string;
  /** outbound: opened here; inbound: by the peer */
  direction: "inbound" | "outbound";
  /** waiting to be accepted, open, or ended */
  state: "ended" | "open" | "waiting";
  /** ms since the Unix epoch */
  openedAt: number;
  /** received from the peer and passed to the local end */
  bytesIn: number;
  /** sent to the peer by the local end */
  bytesOut: number;
  /** how it ended */
  outcome?: "ended" | "limit" | "peer_gone" | "peer_reset" | "reset" | "shutdown" | "stopped" | "timeout" | undefined;
}

export interface RequestResult {
  /** a peer's id: base58btc text, such as 12D3KooW… */
  peerId: string;
  /** protocol id, such as /ipfs/ping/1.0.0 */
  protocol: string;
  /** the answer, base64 */
  data: string;
  /** bytes of the answer */
  size: number;
  /** ms from the call to the answer's last byte */
  duration: number;
}

export interface HandleResult {
  /** protocol id, such as /ipfs/ping/1.0.0 */
  protocol: string;
  /** of both messages */
  framing?: "none" | "u32be" | "uvarint" | undefined;
  /** ms that a request may wait for its answer */
  deadline?: number | undefined;
  /** left out if it is message */
  mode?: "message" | "stream" | undefined;
  /** how many streams may wait to be accepted */
  backlog?: number | undefined;
  /** ms that a stream waits to be accepted */
  acceptTimeout?: number | undefined;
  /** left out if it is false */
  shared?: boolean | undefined;
}

export interface UnhandleResult {
  /** protocol id, such as /ipfs/ping/1.0.0 */
  protocol: string;
  /** whether this connection handled it until now */
  handled: boolean;
}

export interface ReadResult {
  /** from the notification */
  requestId: string;
  /** a peer's id: base58btc text, such as 12D3KooW… */
  peerId: string;
  /** protocol id, such as /ipfs/ping/1.0.0 */
  protocol: string;
  /** base64 */
  data: string;
  /** bytes */
  size: number;
}

export interface RespondResult {
  /** from the notification */
  requestId: string;
  /** bytes of the answer, without framing */
  sent: number;
}

export interface TunnelRecord {
  /** identifies it in `tunnel.close` */
  tunnelId: string;
  /** listen: for peers' streams; forward: to a peer */
  kind: "forward" | "listen";
  /** protocol id, such as /ipfs/ping/1.0.0 */
  protocol: string;
  /** whether it survives a restart of the daemon */
  keep: boolean;
  /** number of open streams through it */
  open: number;
  /** number of streams through it since the daemon started */
  total: number;
  /** received from peers */
  bytesIn: number;
  /** sent to peers */
  bytesOut: number;
  /** the peer that a forward tunnel connects to */
  peerId?: string | undefined;
  /** where peers' streams are connected to */
  target?: string | undefined;
  /** where programs connect, with the actual port */
  listen?: string | undefined;
  /** ids of the peers that may use it; all if left out */
  peers?: string[] | undefined;
  /** left out if it is false */
  proxyProtocol?: boolean | undefined;
  /** "connection" if it is closed when the connection that made it closes; otherwise left out */
  lease?: "connection" | undefined;
  /** why the last stream through it failed, or why the tunnel does not work now */
  lastError?: string | undefined;
}

export interface TunnelClosed {
  /** identifies a tunnel */
  tunnelId: string;
  /** number of open streams that were closed */
  closed: number;
}

export interface FoundPeer {
  /** a peer's id: base58btc text, such as 12D3KooW… */
  peerId: string;
  /** multiaddrs with /p2p/ */
  addresses: string[];
  /** to this node */
  connected: boolean;
  /** number of peers queried */
  asked: number;
}

export interface FoundProviders {
  /** as in the search's events */
  queryId: string;
  /** base64 */
  key: string;
  /** in the order in which they were found */
  providers: Provider[];
  /** number of peers queried */
  asked: number;
  /** false if the deadline ended the search; the result is then what was found so far */
  complete: boolean;
}

export interface Provider {
  /** a peer's id: base58btc text, such as 12D3KooW… */
  peerId: string;
  /** multiaddrs with /p2p/; empty if none are known */
  addresses: string[];
}

/**
 * `sent` counts the peers to which the record was sent; the specification has no acknowledgement. `confirmed`
 * counts those that list this node when queried. rust-libp2p omits the asker, so it never counts.
 */
export interface Provided {
  /** base64 */
  key: string;
  /** number of peers to which the record was sent */
  sent: number;
  /** how many of them have it, as a query showed */
  confirmed: number;
  /** number of peers queried to find the closest */
  asked: number;
  /** false if the deadline ended it */
  complete: boolean;
  /** by peer id, in words */
  failures: Record<string, string>;
}

/**
 * Anybody can store a value under a key without a namespace. `byOwner` is true if the peer that a `metadata:<peer
 * id>` key names has returned the value itself.
 */
export interface FoundValue {
  /** as in the search's events */
  queryId: string;
  /** base64 */
  key: string;
  /** whether there is a value */
  found: boolean;
  /** number of peers queried */
  asked: number;
  /** number of peers that returned this value */
  answers: number;
  /** number of peers that returned another value */
  others: number;
  /** false if the deadline ended the search */
  complete: boolean;
  /** whether the peer that the key names has returned it */
  byOwner: boolean;
  /** base64 */
  value?: string | undefined;
}

export interface StoredValue {
  /** base64 */
  key: string;
  /** number of peers that accepted it */
  stored: number;
  /** number of peers queried to find the closest */
  asked: number;
  /** false if the deadline ended it */
  complete: boolean;
  /** by peer id, in words */
  failures: Record<string, string>;
}

export interface Forgotten {
  /** base64 */
  key: string;
  /** whether it was provided, and is no longer announced */
  provided: boolean;
  /** whether a value was stored, and is no longer announced */
  value: boolean;
}

export interface DhtStatus {
  /** a server answers other nodes, a client only asks */
  mode: "client" | "server";
  /** number of peers in the routing table */
  peers: number;
  /** number of values stored for others */
  values: number;
  /** number of provided keys stored for others */
  providedKeys: number;
  /** lookups begun since the node started */
  lookups: number;
  /** number of messages sent to other nodes */
  asked: number;
  /** how many of them got no answer */
  failed: number;
  /** number of messages received from other nodes, by kind */
  answered: Record<string, number>;
  /** how many of them were refused because they break the rules */
  refused: number;
  /** number of messages that could not be decoded */
  malformed: number;
  /** keys and values that users have announced */
  kept: KeptRecord[];
}

export interface KeptRecord {
  /** base64 */
  key: string;
  /** true for a provided key, false for a value */
  provided: boolean;
  /** when it was last announced */
  announced?: number | undefined;
  /** when it will be announced again, at the latest */
  next?: number | undefined;
}

export interface DhtRouting {
  /** number of peers in all buckets */
  peers: number;
  /** those that are not empty, the farthest from this node first */
  buckets: Bucket[];
}

export interface Bucket {
  /** number of leading bits that its peers' positions share with this node's */
  sharedBits: number;
  /** at most 20 */
  peers: RoutingPeer[];
}

export interface RoutingPeer {
  /** a peer's id: base58btc text, such as 12D3KooW… */
  peerId: string;
  /** to this node */
  connected: boolean;
  /** when it last answered, or connected */
  heard: number;
  /** it has since failed to answer once; it is removed at the next failure */
  suspect: boolean;
  /** the /24 or /48 network against whose share of the table it counts */
  network?: string | undefined;
}

export interface Announced {
  /** a peer's id: base58btc text, such as 12D3KooW… */
  peerId: string;
  /** two for each capability */
  keys: AnnouncedKey[];
  /** number of peers that accepted the metadata; left out if none was given */
  stored?: number | undefined;
}

export interface AnnouncedKey {
  /** its name */
  capability: string;
  /** which of the two keys */
  scheme: "fabstir" | "sdk";
  /** base64 */
  key: string;
  /** number of peers to which the record was sent */
  sent: number;
  /** how many of them have it, as a query showed */
  confirmed: number;
}

export interface Withdrawn {
  /** names that are no longer announced */
  capabilities: string[];
  /** whether the metadata was withdrawn too, because no capability is left */
  metadata: boolean;
}

export interface Discovered {
  /** the requested model */
  model: string;
  /** preferred ones, then by reputation, latency and price */
  nodes: FabstirNode[];
  /** ms since the search */
  age: number;
  /** whether it comes from the cache */
  cached: boolean;
  /** number of nodes that the filters left out */
  filtered: number;
  /** number of nodes skipped because their metadata is malformed */
  malformed: number;
  /** false if the deadline ended the search */
  complete: boolean;
}

export interface FabstirNode {
  /** a peer's id: base58btc text, such as 12D3KooW… */
  peerId: string;
  /** multiaddrs */
  addresses: string[];
  /** whether the filters prefer it */
  preferred: boolean;
  /** whether the node itself has returned the metadata */
  byOwner: boolean;
  /** from its metadata */
  models: string[];
  /** ms, measured if it is connected */
  latency?: number | undefined;
  /** from its metadata */
  reputation?: number | undefined;
  /** from its metadata, decimal digits */
  pricePerToken?: string | undefined;
  /** the complete metadata; left out if none was found */
  metadata?: Record<string, unknown> | undefined;
}

export interface BridgeNodes {
  /** the matching nodes */
  nodes: BridgeNode[];
  /** "dht" if capabilities were searched for in the DHT, "local" for connected peers */
  source: "dht" | "local";
}

export interface BridgeNode {
  /** peer id */
  id: string;
  /** multiaddr; "" if none is known */
  address: string;
  /** the requested ones */
  capabilities: string[];
}

export interface BridgeSent {
  /** a peer's id: base58btc text, such as 12D3KooW… */
  peerId: string;
  /** number of the other daemon's WebSockets that it was pushed to, at least 1 */
  delivered: number;
}

export interface BridgeStatus {
  /** whether the node is started, with peers or without */
  connected: boolean;
  /** a peer's id: base58btc text, such as 12D3KooW… */
  peerId: string;
  /** how many connections are open */
  connections: number;
}

export interface TokenCreated {
  /** which one */
  name: string;
  /** what it grants */
  access: "admin" | "read" | "write";
  /** the only methods that it may call; left out for all that `access` allows */
  methods?: string[] | undefined;
  /** patterns of the protocols that it may handle, open and request; left out if it may use all */
  protocols?: string[] | undefined;
  /** ids of the peers that its calls may name; left out if they may name any */
  peers?: string[] | undefined;
  /** ms since the Unix epoch */
  created: number;
  /** ms since the Unix epoch; left out if it is valid until it is revoked */
  expires?: number | undefined;
  /** whether it has expired */
  expired?: boolean | undefined;
  /** ms since the Unix epoch; left out if it has not been used since the daemon started */
  lastUsed?: number | undefined;
  /** the token itself, for the header "Authorization: Bearer …"; it is shown only once */
  token: string;
}

/** What is known of a token. The token itself is returned only when it is created. */
export interface TokenRecord {
  /** which one */
  name: string;
  /** what it grants */
  access: "admin" | "read" | "write";
  /** the only methods that it may call; left out for all that `access` allows */
  methods?: string[] | undefined;
  /** patterns of the protocols that it may handle, open and request; left out if it may use all */
  protocols?: string[] | undefined;
  /** ids of the peers that its calls may name; left out if they may name any */
  peers?: string[] | undefined;
  /** ms since the Unix epoch */
  created: number;
  /** ms since the Unix epoch; left out if it is valid until it is revoked */
  expires?: number | undefined;
  /** whether it has expired */
  expired?: boolean | undefined;
  /** ms since the Unix epoch; left out if it has not been used since the daemon started */
  lastUsed?: number | undefined;
}

export interface TokenRevoked {
  /** which one */
  name: string;
  /** false if there was no such token */
  revoked: boolean;
}

export interface AuditResult {
  /** number of the newest entry */
  head: number;
  /** oldest first */
  entries: AuditEntry[];
  /** entries after `after` that are no longer held; the log has them */
  missed: number;
}

/** A call that changed something, or that was refused. */
export interface AuditEntry {
  /** number of the entry; rises by one while the daemon runs */
  seq: number;
  /** when the call ended, ms since the Unix epoch */
  time: number;
  /** the method called */
  method: string;
  /** as the caller gave them, shortened; texts that may be private are replaced by their length */
  params: Record<string, unknown>;
  /** ok; unchanged: there was nothing to do; CANCELLED: the caller disconnected; otherwise the code of an error */
  outcome: "ok" | "unchanged" | "CANCELLED" | "PARSE_ERROR" | "INVALID_REQUEST" | "METHOD_NOT_FOUND" | "INVALID_PARAMS" | "INTERNAL_ERROR" | "NODE_NOT_RUNNING" | "TIMEOUT" | "TOO_LARGE" | "PEER_NOT_FOUND" | "LIMIT_EXCEEDED" | "DIAL_FAILED" | "INVALID_STATE" | "FORBIDDEN" | "FEATURE_DISABLED" | "LISTEN_FAILED" | "STREAM_FAILED";
  /** ms */
  duration: number;
  /** how the call arrived */
  transport: "ipc" | "http" | "ws";
  /** the request's id, as JSON; left out for a notification */
  id?: string | undefined;
  /** user id of the calling process, over IPC */
  uid?: number | undefined;
  /** process id of the caller, over IPC */
  pid?: number | undefined;
  /** name of the token, over HTTP and WebSocket */
  token?: string | undefined;
  /** address of the caller, over HTTP and WebSocket */
  remote?: string | undefined;
}

/** All tasks, each followed by its children. */
export interface TaskTree {
  /** number of tasks */
  count: number;
  /** the first 5,000 */
  tasks: TaskRecord[];
}

/** One task of the event loop. */
export interface TaskRecord {
  /** the name of its function */
  name: string;
  /** its depth in the tree; 0 for the root */
  depth: number;
  /** where it waits, outermost call first: file:line function */
  stack: string[];
}

/** A zip file for diagnosing faults. It contains no keys and no tokens, but it shows peers and their addresses. */
export interface Dump {
  /** a file name that shows the node and the time */
  name: string;
  /** bytes */
  size: number;
  /** names of the files in it */
  files: string[];
  /** the zip file */
  content: string;
}

export interface LogLevels {
  /** of all loggers without their own */
  level: "debug" | "info" | "warning" | "error";
  /** loggers with their own level */
  loggers: Record<string, "debug" | "info" | "warning" | "error">;
  /** loggers whose level can be set */
  known: string[];
}

/** A code that opens the page once. */
export interface UiCode {
  /** exchanged for a token by POST /ui/token */
  code: string;
  /** of the page, with the code in its fragment */
  url: string;
  /** of the token that it is exchanged for */
  access: "admin" | "read" | "write";
  /** ms since the Unix epoch: 30 s from now */
  expires: number;
}

/** An address that the node tries to stay connected to, and the state of its dial cycle. */
export interface DialRecord {
  /** multiaddr */
  address: string;
  /** why it is dialled */
  source: "bootstrap" | "kept" | "relay";
  /** of the node */
  state: "connected" | "dialling" | "due" | "resting" | "waiting";
  /** number of dials begun in this cycle */
  attempts: number;
  /** left out if the address does not name its peer and was never connected */
  peerId?: string | undefined;
  /** ms since the Unix epoch; left out if none is due */
  nextDial?: number | undefined;
  /** of the last dial, unless it has connected since */
  lastError?: string | undefined;
}

/** Lines of the log, oldest first. */
export interface LogTail {
  /** number of the newest line */
  head: number;
  /** the requested lines */
  lines: LogLine[];
  /** number of lines after `after` that are no longer kept */
  missed: number;
}

/** One line of the daemon's log. */
export interface LogLine {
  /** number of the line; rises by one */
  seq: number;
  /** its level */
  level: "critical" | "debug" | "error" | "info" | "warning";
  /** the line, as JSON */
  text: string;
}

/** The node listens. Not repeated by a `start` while it is started. */
export interface NodeStartedEvent {
  /** its subscription; in notifications only */
  subscription?: string | undefined;
  /** identifies the daemon's run; event numbers can only be compared within one run */
  epoch: string;
  /** number of the event; rises by one */
  seq: number;
  /** ms since the Unix epoch */
  time: number;
  type: "p2p:started";
  data: NodeStarted;
}

/** The node has stopped; no event of a peer or a connection follows. */
export interface NodeStoppedEvent {
  /** its subscription; in notifications only */
  subscription?: string | undefined;
  /** identifies the daemon's run; event numbers can only be compared within one run */
  epoch: string;
  /** number of the event; rises by one */
  seq: number;
  /** ms since the Unix epoch */
  time: number;
  type: "p2p:stopped";
  data: NodeStopped;
}

/** A peer's first connection is up. Further connections to the same peer publish no event. */
export interface PeerConnectedEvent {
  /** its subscription; in notifications only */
  subscription?: string | undefined;
  /** identifies the daemon's run; event numbers can only be compared within one run */
  epoch: string;
  /** number of the event; rises by one */
  seq: number;
  /** ms since the Unix epoch */
  time: number;
  type: "peer:connect";
  data: PeerConnected;
}

/** A peer's last connection has ended. */
export interface PeerDisconnectedEvent {
  /** its subscription; in notifications only */
  subscription?: string | undefined;
  /** identifies the daemon's run; event numbers can only be compared within one run */
  epoch: string;
  /** number of the event; rises by one */
  seq: number;
  /** ms since the Unix epoch */
  time: number;
  type: "peer:disconnect";
  data: PeerDisconnected;
}

/**
 * The identify protocol has finished: the peer has described itself. Published again when the description
 * changes.
 */
export interface PeerIdentifiedEvent {
  /** its subscription; in notifications only */
  subscription?: string | undefined;
  /** identifies the daemon's run; event numbers can only be compared within one run */
  epoch: string;
  /** number of the event; rises by one */
  seq: number;
  /** ms since the Unix epoch */
  time: number;
  type: "peer:identify";
  data: PeerIdentified;
}

/**
 * A peer that was reached through a relay now has a direct connection. New streams use that, and the relayed
 * connection closes once it has no streams left.
 */
export interface PeerPathEvent {
  /** its subscription; in notifications only */
  subscription?: string | undefined;
  /** identifies the daemon's run; event numbers can only be compared within one run */
  epoch: string;
  /** number of the event; rises by one */
  seq: number;
  /** ms since the Unix epoch */
  time: number;
  type: "peer:path";
  data: PeerPath;
}

/** The router forwards one of its addresses to this node (port mapping). Not repeated when the lease is renewed. */
export interface NatMappedEvent {
  /** its subscription; in notifications only */
  subscription?: string | undefined;
  /** identifies the daemon's run; event numbers can only be compared within one run */
  epoch: string;
  /** number of the event; rises by one */
  seq: number;
  /** ms since the Unix epoch */
  time: number;
  type: "nat:mapped";
  data: NatMapped;
}

/**
 * A port mapping has ended: removed because the node stops, not renewed by the router, or left behind in another
 * network.
 */
export interface NatUnmappedEvent {
  /** its subscription; in notifications only */
  subscription?: string | undefined;
  /** identifies the daemon's run; event numbers can only be compared within one run */
  epoch: string;
  /** number of the event; rises by one */
  seq: number;
  /** ms since the Unix epoch */
  time: number;
  type: "nat:unmapped";
  data: NatUnmapped;
}

/** A dial of a bootstrap node failed, and will be retried. */
export interface ConnectionRetryEvent {
  /** its subscription; in notifications only */
  subscription?: string | undefined;
  /** identifies the daemon's run; event numbers can only be compared within one run */
  epoch: string;
  /** number of the event; rises by one */
  seq: number;
  /** ms since the Unix epoch */
  time: number;
  type: "connection:retry";
  data: ConnectionRetry;
}

/** The last dial of a bootstrap node's cycle failed too. The next cycle begins after [node] keepalive_interval. */
export interface ConnectionFailedEvent {
  /** its subscription; in notifications only */
  subscription?: string | undefined;
  /** identifies the daemon's run; event numbers can only be compared within one run */
  epoch: string;
  /** number of the event; rises by one */
  seq: number;
  /** ms since the Unix epoch */
  time: number;
  type: "connection:failed";
  data: ConnectionFailed;
}

/** A stop has cancelled the dials of a bootstrap node. Published once for each address, before p2p:stopped. */
export interface ConnectionCancelledEvent {
  /** its subscription; in notifications only */
  subscription?: string | undefined;
  /** identifies the daemon's run; event numbers can only be compared within one run */
  epoch: string;
  /** number of the event; rises by one */
  seq: number;
  /** ms since the Unix epoch */
  time: number;
  type: "connection:cancelled";
  data: ConnectionCancelled;
}

/** The first dial of a bootstrap node's cycle failed. */
export interface BootstrapErrorEvent {
  /** its subscription; in notifications only */
  subscription?: string | undefined;
  /** identifies the daemon's run; event numbers can only be compared within one run */
  epoch: string;
  /** number of the event; rises by one */
  seq: number;
  /** ms since the Unix epoch */
  time: number;
  type: "error";
  data: BootstrapError;
}

/** This node has begun to answer other nodes, or has stopped answering them. */
export interface DhtModeChangedEvent {
  /** its subscription; in notifications only */
  subscription?: string | undefined;
  /** identifies the daemon's run; event numbers can only be compared within one run */
  epoch: string;
  /** number of the event; rises by one */
  seq: number;
  /** ms since the Unix epoch */
  time: number;
  type: "dht:mode";
  data: DhtModeChanged;
}

/** A search has found a provider, and continues. */
export interface ProviderFoundEvent {
  /** its subscription; in notifications only */
  subscription?: string | undefined;
  /** identifies the daemon's run; event numbers can only be compared within one run */
  epoch: string;
  /** number of the event; rises by one */
  seq: number;
  /** ms since the Unix epoch */
  time: number;
  type: "dht:provider";
  data: ProviderFound;
}

/** A peer has returned a value, and the search continues. */
export interface ValueFoundEvent {
  /** its subscription; in notifications only */
  subscription?: string | undefined;
  /** identifies the daemon's run; event numbers can only be compared within one run */
  epoch: string;
  /** number of the event; rises by one */
  seq: number;
  /** ms since the Unix epoch */
  time: number;
  type: "dht:value";
  data: ValueFound;
}

/** An entry of the event log */
export type Event =
  | NodeStartedEvent
  | NodeStoppedEvent
  | PeerConnectedEvent
  | PeerDisconnectedEvent
  | PeerIdentifiedEvent
  | PeerPathEvent
  | NatMappedEvent
  | NatUnmappedEvent
  | ConnectionRetryEvent
  | ConnectionFailedEvent
  | ConnectionCancelledEvent
  | BootstrapErrorEvent
  | DhtModeChangedEvent
  | ProviderFoundEvent
  | ValueFoundEvent;

/** The type of an event */
export type EventType =
  | "p2p:started"
  | "p2p:stopped"
  | "peer:connect"
  | "peer:disconnect"
  | "peer:identify"
  | "peer:path"
  | "nat:mapped"
  | "nat:unmapped"
  | "connection:retry"
  | "connection:failed"
  | "connection:cancelled"
  | "error"
  | "dht:mode"
  | "dht:provider"
  | "dht:value";

// ---- Events

/** The data of each type of event. */
export interface EventDataByType {
  "p2p:started": NodeStarted;
  "p2p:stopped": NodeStopped;
  "peer:connect": PeerConnected;
  "peer:disconnect": PeerDisconnected;
  "peer:identify": PeerIdentified;
  "peer:path": PeerPath;
  "nat:mapped": NatMapped;
  "nat:unmapped": NatUnmapped;
  "connection:retry": ConnectionRetry;
  "connection:failed": ConnectionFailed;
  "connection:cancelled": ConnectionCancelled;
  "error": BootstrapError;
  "dht:mode": DhtModeChanged;
  "dht:provider": ProviderFound;
  "dht:value": ValueFound;
}

export const EVENT_TYPES = [
  "p2p:started",
  "p2p:stopped",
  "peer:connect",
  "peer:disconnect",
  "peer:identify",
  "peer:path",
  "nat:mapped",
  "nat:unmapped",
  "connection:retry",
  "connection:failed",
  "connection:cancelled",
  "error",
  "dht:mode",
  "dht:provider",
  "dht:value",
] as const satisfies readonly EventType[];

// ---- Notifications

/** The parameters of each notification. */
export interface NotificationByMethod {
  /** An entry of the event log */
  event: Event;
  /** Sent in place of events that are missing. */
  lagged: LaggedNotice;
  /** Sent when nothing has happened for a while. Every requested event up to `head` has been sent. */
  heartbeat: Heartbeat;
  /**
   * A peer has opened a stream on a protocol that this connection handles as streams. Accept it with
   * `stream.accept` on a new connection; a stream that is not accepted in time is reset.
   */
  "stream.incoming": StreamIncoming;
  /** A stream that a peer had opened has ended. */
  "stream.closed": StreamClosed;
  /**
   * A peer has sent a message on a protocol that this connection handles. `data` is left out if it is larger than
   * 4 KiB; `protocol.read` returns it.
   */
  "protocol.request": ProtocolRequest;
  /** A request was answered, or can no longer be answered. */
  "protocol.ended": ProtocolEnded;
}

export type NotificationMethod = keyof NotificationByMethod;

// ---- Errors

/** The details of each error that the daemon answers with. */
export interface ErrorDataByCode {
  NODE_NOT_RUNNING: NodeNotRunningData;
  TIMEOUT: TimeoutData;
  TOO_LARGE: LimitData;
  PEER_NOT_FOUND: PeerNotFoundData;
  LIMIT_EXCEEDED: LimitData;
  DIAL_FAILED: DialFailedData;
  INVALID_STATE: InvalidStateData;
  FORBIDDEN: ForbiddenData;
  FEATURE_DISABLED: FeatureDisabledData;
  LISTEN_FAILED: ListenFailedData;
  STREAM_FAILED: StreamFailedData;
  INVALID_REQUEST: ErrorData;
  METHOD_NOT_FOUND: MethodNotFoundData;
  INVALID_PARAMS: InvalidParamsData;
  INTERNAL_ERROR: InternalErrorData;
  PARSE_ERROR: ErrorData;
}

export type ErrorCode = keyof ErrorDataByCode;

/** The JSON-RPC number of each error. */
export const RPC_CODES = {
  NODE_NOT_RUNNING: -32001,
  TIMEOUT: -32002,
  TOO_LARGE: -32003,
  PEER_NOT_FOUND: -32004,
  LIMIT_EXCEEDED: -32005,
  DIAL_FAILED: -32006,
  INVALID_STATE: -32007,
  FORBIDDEN: -32008,
  FEATURE_DISABLED: -32009,
  LISTEN_FAILED: -32010,
  STREAM_FAILED: -32011,
  INVALID_REQUEST: -32600,
  METHOD_NOT_FOUND: -32601,
  INVALID_PARAMS: -32602,
  INTERNAL_ERROR: -32603,
  PARSE_ERROR: -32700,
} as const satisfies Record<ErrorCode, number>;

// ---- Methods

/** Each method: its parameters by name (`params`) and by position (`args`), its result, its errors. */
export interface MethodTypes {
  /** Start the node; `config` overrides keys for this run */
  start: {
    params: {
      /** for this run only; checked as the configuration file is */
      config?: NodeOverrides | null | undefined;
    };
    args: [config?: NodeOverrides | null | undefined];
    result: Status;
    errors:
      | "INVALID_PARAMS"
      | "TIMEOUT"
      | "TOO_LARGE"
      | "LIMIT_EXCEEDED"
      | "FORBIDDEN"
      | "INTERNAL_ERROR"
      | "INVALID_STATE"
      | "LISTEN_FAILED";
  };
  /** Stop the node: end connections, dials and pending retries */
  stop: {
    params: Record<string, never>;
    args: [];
    result: Status;
    errors:
      "INVALID_PARAMS" | "TIMEOUT" | "TOO_LARGE" | "LIMIT_EXCEEDED" | "FORBIDDEN" | "INTERNAL_ERROR";
  };
  /** State of the node, and the newest event */
  status: {
    params: Record<string, never>;
    args: [];
    result: Status;
    errors:
      "INVALID_PARAMS" | "TIMEOUT" | "TOO_LARGE" | "LIMIT_EXCEEDED" | "FORBIDDEN" | "INTERNAL_ERROR";
  };
  /** Connected peers, one entry for each */
  peers: {
    params: Record<string, never>;
    args: [];
    result: Peer[];
    errors:
      "INVALID_PARAMS" | "TIMEOUT" | "TOO_LARGE" | "LIMIT_EXCEEDED" | "FORBIDDEN" | "INTERNAL_ERROR";
  };
  /** Addresses: listened on, announced, observed by peers */
  addresses: {
    params: Record<string, never>;
    args: [];
    result: Addresses;
    errors:
      "INVALID_PARAMS" | "TIMEOUT" | "TOO_LARGE" | "LIMIT_EXCEEDED" | "FORBIDDEN" | "INTERNAL_ERROR";
  };
  /** Counters since the daemon started */
  metrics: {
    params: Record<string, never>;
    args: [];
    result: Metrics;
    errors:
      "INVALID_PARAMS" | "TIMEOUT" | "TOO_LARGE" | "LIMIT_EXCEEDED" | "FORBIDDEN" | "INTERNAL_ERROR";
  };
  /** Connect to a multiaddr or to a known peer */
  connect: {
    params: {
      /** a multiaddr with /p2p/<peer id>, or a peer id whose addresses are known */
      address: string;
      /** the longest that the call may take, in ms; [node] request_timeout if left out */
      timeout?: number | null | undefined;
    };
    args: [address: string, timeout?: number | null | undefined];
    result: ConnectResult;
    errors:
      | "INVALID_PARAMS"
      | "TIMEOUT"
      | "TOO_LARGE"
      | "LIMIT_EXCEEDED"
      | "FORBIDDEN"
      | "INTERNAL_ERROR"
      | "NODE_NOT_RUNNING"
      | "PEER_NOT_FOUND"
      | "DIAL_FAILED";
  };
  /** Close all connections to a peer */
  disconnect: {
    params: {
      /** a peer's id: base58btc text, such as 12D3KooW… */
      peerId: string;
    };
    args: [peerId: string];
    result: DisconnectResult;
    errors:
      | "INVALID_PARAMS"
      | "TIMEOUT"
      | "TOO_LARGE"
      | "LIMIT_EXCEEDED"
      | "FORBIDDEN"
      | "INTERNAL_ERROR"
      | "NODE_NOT_RUNNING"
      | "PEER_NOT_FOUND";
  };
  /** Measure the round-trip time to a connected peer */
  ping: {
    params: {
      /** a peer's id: base58btc text, such as 12D3KooW… */
      peerId: string;
      /** the longest that the call may take, in ms; [node] request_timeout if left out */
      timeout?: number | null | undefined;
    };
    args: [peerId: string, timeout?: number | null | undefined];
    result: PingResult;
    errors:
      | "INVALID_PARAMS"
      | "TIMEOUT"
      | "TOO_LARGE"
      | "LIMIT_EXCEEDED"
      | "FORBIDDEN"
      | "INTERNAL_ERROR"
      | "NODE_NOT_RUNNING"
      | "PEER_NOT_FOUND"
      | "INVALID_STATE";
  };
  /** Follow events on this connection */
  subscribe: {
    params: {
      /** only events of these types; all where it is left out */
      types?: EventType[] | null | undefined;
      /** begin after the event of this number; after the newest where it is left out */
      after?: number | null | undefined;
      /** the run that `after` is of; the current one where it is left out */
      epoch?: string | null | undefined;
    };
    args: [types?: EventType[] | null | undefined, after?: number | null | undefined, epoch?: string | null | undefined];
    result: SubscribeResult;
    errors:
      | "INVALID_PARAMS"
      | "TIMEOUT"
      | "TOO_LARGE"
      | "LIMIT_EXCEEDED"
      | "FORBIDDEN"
      | "INTERNAL_ERROR"
      | "METHOD_NOT_FOUND";
  };
  /** End a subscription */
  unsubscribe: {
    params: {
      /** its name, valid on its connection */
      subscription: string;
    };
    args: [subscription: string];
    result: UnsubscribeResult;
    errors:
      | "INVALID_PARAMS"
      | "TIMEOUT"
      | "TOO_LARGE"
      | "LIMIT_EXCEEDED"
      | "FORBIDDEN"
      | "INTERNAL_ERROR"
      | "METHOD_NOT_FOUND";
  };
  /** Events after a number; can wait for the next one */
  events: {
    params: {
      /** only events after this number; all that are kept where it is left out */
      after?: number | null | undefined;
      /** the run that `after` is of; the current one where it is left out */
      epoch?: string | null | undefined;
      /** only events of these types; all where it is left out */
      types?: EventType[] | null | undefined;
      /** events in the answer, 1 to 1000 */
      limit?: number | null | undefined;
      /** ms to wait for an event where there is none yet, 0 to 60000; 0 where it is left out */
      timeout?: number | null | undefined;
    };
    args: [after?: number | null | undefined, epoch?: string | null | undefined, types?: EventType[] | null | undefined, limit?: number | null | undefined, timeout?: number | null | undefined];
    result: EventsResult;
    errors:
      "INVALID_PARAMS" | "TIMEOUT" | "TOO_LARGE" | "LIMIT_EXCEEDED" | "FORBIDDEN" | "INTERNAL_ERROR";
  };
  /** Wait until the node is in a given state */
  wait: {
    params: {
      /** of the node */
      state?: "failed" | "started" | "starting" | "stopped" | "stopping" | null | undefined;
      /** at least so many are connected */
      peers?: number | null | undefined;
      /** is connected */
      peerId?: string | null | undefined;
      /** `peerId` speaks it, or any peer */
      protocol?: string | null | undefined;
      /** ms */
      timeout: number;
    };
    args: [state: "failed" | "started" | "starting" | "stopped" | "stopping" | null | undefined, peers: number | null | undefined, peerId: string | null | undefined, protocol: string | null | undefined, timeout: number];
    result: WaitResult;
    errors:
      "INVALID_PARAMS" | "TIMEOUT" | "TOO_LARGE" | "LIMIT_EXCEEDED" | "FORBIDDEN" | "INTERNAL_ERROR";
  };
  /** The effective configuration */
  config: {
    params: Record<string, never>;
    args: [];
    result: Config;
    errors:
      "INVALID_PARAMS" | "TIMEOUT" | "TOO_LARGE" | "LIMIT_EXCEEDED" | "FORBIDDEN" | "INTERNAL_ERROR";
  };
  /** Versions, and the protocols that the node answers */
  version: {
    params: Record<string, never>;
    args: [];
    result: VersionResult;
    errors:
      "INVALID_PARAMS" | "TIMEOUT" | "TOO_LARGE" | "LIMIT_EXCEEDED" | "FORBIDDEN" | "INTERNAL_ERROR";
  };
  /** Stop the daemon, as SIGTERM does */
  shutdown: {
    params: Record<string, never>;
    args: [];
    result: Empty;
    errors:
      "INVALID_PARAMS" | "TIMEOUT" | "TOO_LARGE" | "LIMIT_EXCEEDED" | "FORBIDDEN" | "INTERNAL_ERROR";
  };
  /** Tag a peer; trimming spares high values */
  "peer.tag": {
    params: {
      /** a peer's id: base58btc text, such as 12D3KooW… */
      peerId: string;
      /** any text that says what the value is for */
      tag: string;
      /** the higher the sum over a peer's tags, the longer trimming spares it */
      value: number;
    };
    args: [peerId: string, tag: string, value: number];
    result: PeerTags;
    errors:
      "INVALID_PARAMS" | "TIMEOUT" | "TOO_LARGE" | "LIMIT_EXCEEDED" | "FORBIDDEN" | "INTERNAL_ERROR";
  };
  /** Remove a tag from a peer */
  "peer.untag": {
    params: {
      /** a peer's id: base58btc text, such as 12D3KooW… */
      peerId: string;
      /** any text that says what the value is for */
      tag: string;
    };
    args: [peerId: string, tag: string];
    result: PeerTags;
    errors:
      "INVALID_PARAMS" | "TIMEOUT" | "TOO_LARGE" | "LIMIT_EXCEEDED" | "FORBIDDEN" | "INTERNAL_ERROR";
  };
  /** Never trim a peer */
  "peer.protect": {
    params: {
      /** a peer's id: base58btc text, such as 12D3KooW… */
      peerId: string;
    };
    args: [peerId: string];
    result: PeerTags;
    errors:
      "INVALID_PARAMS" | "TIMEOUT" | "TOO_LARGE" | "LIMIT_EXCEEDED" | "FORBIDDEN" | "INTERNAL_ERROR";
  };
  /** Let a peer be trimmed again */
  "peer.unprotect": {
    params: {
      /** a peer's id: base58btc text, such as 12D3KooW… */
      peerId: string;
    };
    args: [peerId: string];
    result: PeerTags;
    errors:
      "INVALID_PARAMS" | "TIMEOUT" | "TOO_LARGE" | "LIMIT_EXCEEDED" | "FORBIDDEN" | "INTERNAL_ERROR";
  };
  /** Ban a peer id, an IP address or a network */
  "peer.ban": {
    params: {
      /** a peer id, an IP address or a network in CIDR notation */
      target?: string | null | undefined;
      /** ms; permanent if left out */
      duration?: number | null | undefined;
      /** for people */
      reason?: string | null | undefined;
      /** a peer's id: base58btc text, such as 12D3KooW… */
      peerId?: string | null | undefined;
      /** an IP address */
      ip?: string | null | undefined;
      /** a network, such as 192.0.2.0/24 */
      cidr?: string | null | undefined;
    };
    args: [target?: string | null | undefined, duration?: number | null | undefined, reason?: string | null | undefined, peerId?: string | null | undefined, ip?: string | null | undefined, cidr?: string | null | undefined];
    result: BanResult;
    errors:
      | "INVALID_PARAMS"
      | "TIMEOUT"
      | "TOO_LARGE"
      | "LIMIT_EXCEEDED"
      | "FORBIDDEN"
      | "INTERNAL_ERROR"
      | "INVALID_STATE";
  };
  /** Lift a ban */
  "peer.unban": {
    params: {
      /** a peer id, an IP address or a network in CIDR notation */
      target?: string | null | undefined;
      /** a peer's id: base58btc text, such as 12D3KooW… */
      peerId?: string | null | undefined;
      /** an IP address */
      ip?: string | null | undefined;
      /** a network, such as 192.0.2.0/24 */
      cidr?: string | null | undefined;
    };
    args: [target?: string | null | undefined, peerId?: string | null | undefined, ip?: string | null | undefined, cidr?: string | null | undefined];
    result: UnbanResult;
    errors:
      | "INVALID_PARAMS"
      | "TIMEOUT"
      | "TOO_LARGE"
      | "LIMIT_EXCEEDED"
      | "FORBIDDEN"
      | "INTERNAL_ERROR"
      | "INVALID_STATE";
  };
  /** Bans in force */
  "peer.bans": {
    params: Record<string, never>;
    args: [];
    result: BanRecord[];
    errors:
      "INVALID_PARAMS" | "TIMEOUT" | "TOO_LARGE" | "LIMIT_EXCEEDED" | "FORBIDDEN" | "INTERNAL_ERROR";
  };
  /** Stay connected to an address, across restarts */
  "peer.keep": {
    params: {
      /** a multiaddr with /p2p/<peer id> */
      address: string;
      /** kept for as long as this connection is open; for good if left out */
      lease?: "connection" | null | undefined;
    };
    args: [address: string, lease?: "connection" | null | undefined];
    result: KeepResult;
    errors:
      | "INVALID_PARAMS"
      | "TIMEOUT"
      | "TOO_LARGE"
      | "LIMIT_EXCEEDED"
      | "FORBIDDEN"
      | "INTERNAL_ERROR"
      | "INVALID_STATE";
  };
  /** Stop keeping an address or a peer */
  "peer.forget": {
    params: {
      /** a peer id or a multiaddr */
      target?: string | null | undefined;
      /** a peer's id: base58btc text, such as 12D3KooW… */
      peerId?: string | null | undefined;
      /** multiaddr */
      address?: string | null | undefined;
    };
    args: [target?: string | null | undefined, peerId?: string | null | undefined, address?: string | null | undefined];
    result: ForgetResult;
    errors:
      | "INVALID_PARAMS"
      | "TIMEOUT"
      | "TOO_LARGE"
      | "LIMIT_EXCEEDED"
      | "FORBIDDEN"
      | "INTERNAL_ERROR"
      | "INVALID_STATE";
  };
  /** Why a peer is or is not connected */
  "peer.explain": {
    params: {
      /** a peer id or a multiaddr */
      target?: string | null | undefined;
      /** a peer's id: base58btc text, such as 12D3KooW… */
      peerId?: string | null | undefined;
      /** multiaddr */
      address?: string | null | undefined;
    };
    args: [target?: string | null | undefined, peerId?: string | null | undefined, address?: string | null | undefined];
    result: Explanation;
    errors:
      "INVALID_PARAMS" | "TIMEOUT" | "TOO_LARGE" | "LIMIT_EXCEEDED" | "FORBIDDEN" | "INTERNAL_ERROR";
  };
  /** Open a stream to a peer: this connection becomes it */
  "stream.open": {
    params: {
      /** a peer's id: base58btc text, such as 12D3KooW… */
      peerId: string;
      /** a protocol id, or several in order of preference */
      protocol: string | string[];
      /** the longest that the call may take, in ms; [node] request_timeout if left out */
      timeout?: number | null | undefined;
    };
    args: [peerId: string, protocol: string | string[], timeout?: number | null | undefined];
    result: OpenedStream;
    errors:
      | "INVALID_PARAMS"
      | "TIMEOUT"
      | "TOO_LARGE"
      | "LIMIT_EXCEEDED"
      | "FORBIDDEN"
      | "INTERNAL_ERROR"
      | "METHOD_NOT_FOUND"
      | "NODE_NOT_RUNNING"
      | "PEER_NOT_FOUND"
      | "DIAL_FAILED"
      | "INVALID_STATE"
      | "STREAM_FAILED";
  };
  /** Accept a peer's stream: this connection becomes it */
  "stream.accept": {
    params: {
      /** identifies a stream */
      streamId: string;
    };
    args: [streamId: string];
    result: OpenedStream;
    errors:
      | "INVALID_PARAMS"
      | "TIMEOUT"
      | "TOO_LARGE"
      | "LIMIT_EXCEEDED"
      | "FORBIDDEN"
      | "INTERNAL_ERROR"
      | "METHOD_NOT_FOUND"
      | "INVALID_STATE";
  };
  /** Reset a stream */
  "stream.reset": {
    params: {
      /** identifies a stream */
      streamId: string;
    };
    args: [streamId: string];
    result: ResetResult;
    errors:
      | "INVALID_PARAMS"
      | "TIMEOUT"
      | "TOO_LARGE"
      | "LIMIT_EXCEEDED"
      | "FORBIDDEN"
      | "INTERNAL_ERROR"
      | "INVALID_STATE";
  };
  /** Streams, including those that ended in the last minute */
  "stream.list": {
    params: Record<string, never>;
    args: [];
    result: StreamRecord[];
    errors:
      "INVALID_PARAMS" | "TIMEOUT" | "TOO_LARGE" | "LIMIT_EXCEEDED" | "FORBIDDEN" | "INTERNAL_ERROR";
  };
  /** Send a message to a peer, read its answer */
  request: {
    params: {
      /** a peer's id: base58btc text, such as 12D3KooW… */
      peerId: string;
      /** protocol id, such as /ipfs/ping/1.0.0 */
      protocol: string;
      /** base64 */
      data: string;
      /** of both messages; uvarint if left out */
      framing?: "none" | "u32be" | "uvarint" | null | undefined;
      /** the longest that the call may take, in ms; [node] request_timeout if left out */
      timeout?: number | null | undefined;
    };
    args: [peerId: string, protocol: string, data: string, framing?: "none" | "u32be" | "uvarint" | null | undefined, timeout?: number | null | undefined];
    result: RequestResult;
    errors:
      | "INVALID_PARAMS"
      | "TIMEOUT"
      | "TOO_LARGE"
      | "LIMIT_EXCEEDED"
      | "FORBIDDEN"
      | "INTERNAL_ERROR"
      | "NODE_NOT_RUNNING"
      | "PEER_NOT_FOUND"
      | "DIAL_FAILED"
      | "INVALID_STATE"
      | "STREAM_FAILED";
  };
  /** Handle a protocol for peers */
  "protocol.handle": {
    params: {
      /** protocol id, such as /ipfs/ping/1.0.0 */
      protocol: string;
      /** whether peers' streams carry one message each way, or are accepted; message if left out */
      mode?: "message" | "stream" | null | undefined;
      /** of both messages; uvarint if left out */
      framing?: "none" | "u32be" | "uvarint" | null | undefined;
      /** ms that a request may wait for its answer; request_timeout if left out */
      deadline?: number | null | undefined;
      /** how many streams may wait to be accepted, 1 to 1024; 16 if left out */
      backlog?: number | null | undefined;
      /** ms that a stream waits to be accepted; 10000 if left out */
      acceptTimeout?: number | null | undefined;
      /** whether other connections that set it too may handle the protocol in turn */
      shared?: boolean | null | undefined;
    };
    args: [protocol: string, mode?: "message" | "stream" | null | undefined, framing?: "none" | "u32be" | "uvarint" | null | undefined, deadline?: number | null | undefined, backlog?: number | null | undefined, acceptTimeout?: number | null | undefined, shared?: boolean | null | undefined];
    result: HandleResult;
    errors:
      | "INVALID_PARAMS"
      | "TIMEOUT"
      | "TOO_LARGE"
      | "LIMIT_EXCEEDED"
      | "FORBIDDEN"
      | "INTERNAL_ERROR"
      | "METHOD_NOT_FOUND"
      | "INVALID_STATE";
  };
  /** Stop handling a protocol */
  "protocol.unhandle": {
    params: {
      /** protocol id, such as /ipfs/ping/1.0.0 */
      protocol: string;
    };
    args: [protocol: string];
    result: UnhandleResult;
    errors:
      | "INVALID_PARAMS"
      | "TIMEOUT"
      | "TOO_LARGE"
      | "LIMIT_EXCEEDED"
      | "FORBIDDEN"
      | "INTERNAL_ERROR"
      | "METHOD_NOT_FOUND";
  };
  /** Read a peer's waiting request */
  "protocol.read": {
    params: {
      /** from the notification */
      requestId: string;
    };
    args: [requestId: string];
    result: ReadResult;
    errors:
      | "INVALID_PARAMS"
      | "TIMEOUT"
      | "TOO_LARGE"
      | "LIMIT_EXCEEDED"
      | "FORBIDDEN"
      | "INTERNAL_ERROR"
      | "INVALID_STATE";
  };
  /** Answer a peer's request */
  "protocol.respond": {
    params: {
      /** from the notification */
      requestId: string;
      /** base64 */
      data: string;
    };
    args: [requestId: string, data: string];
    result: RespondResult;
    errors:
      | "INVALID_PARAMS"
      | "TIMEOUT"
      | "TOO_LARGE"
      | "LIMIT_EXCEEDED"
      | "FORBIDDEN"
      | "INTERNAL_ERROR"
      | "INVALID_STATE";
  };
  /** Connect peers' streams to a local program */
  "tunnel.listen": {
    params: {
      /** protocol id, such as /ipfs/ping/1.0.0 */
      protocol: string;
      /** where peers' streams are connected to: host:port, or unix:/path */
      target: string;
      /** ids of the peers that may use it; all if left out */
      peers?: string[] | null | undefined;
      /** whether a PROXY v2 header that names the peer is sent to the target first */
      proxyProtocol?: boolean | null | undefined;
      /** whether it survives a restart of the daemon */
      keep?: boolean | null | undefined;
      /** closed when this connection closes; not together with `keep` */
      lease?: "connection" | null | undefined;
    };
    args: [protocol: string, target: string, peers?: string[] | null | undefined, proxyProtocol?: boolean | null | undefined, keep?: boolean | null | undefined, lease?: "connection" | null | undefined];
    result: TunnelRecord;
    errors:
      | "INVALID_PARAMS"
      | "TIMEOUT"
      | "TOO_LARGE"
      | "LIMIT_EXCEEDED"
      | "FORBIDDEN"
      | "INTERNAL_ERROR"
      | "INVALID_STATE";
  };
  /** Connect local programs to a peer */
  "tunnel.forward": {
    params: {
      /** a peer's id: base58btc text, such as 12D3KooW… */
      peerId: string;
      /** protocol id, such as /ipfs/ping/1.0.0 */
      protocol: string;
      /** where programs connect: 127.0.0.1:PORT (0 for a free port), or unix:/path */
      listen: string;
      /** whether it survives a restart of the daemon */
      keep?: boolean | null | undefined;
      /** closed when this connection closes; not together with `keep` */
      lease?: "connection" | null | undefined;
    };
    args: [peerId: string, protocol: string, listen: string, keep?: boolean | null | undefined, lease?: "connection" | null | undefined];
    result: TunnelRecord;
    errors:
      | "INVALID_PARAMS"
      | "TIMEOUT"
      | "TOO_LARGE"
      | "LIMIT_EXCEEDED"
      | "FORBIDDEN"
      | "INTERNAL_ERROR"
      | "INVALID_STATE"
      | "LISTEN_FAILED";
  };
  /** All tunnels, and their traffic */
  "tunnel.list": {
    params: Record<string, never>;
    args: [];
    result: TunnelRecord[];
    errors:
      "INVALID_PARAMS" | "TIMEOUT" | "TOO_LARGE" | "LIMIT_EXCEEDED" | "FORBIDDEN" | "INTERNAL_ERROR";
  };
  /** Close a tunnel */
  "tunnel.close": {
    params: {
      /** identifies a tunnel */
      tunnelId: string;
    };
    args: [tunnelId: string];
    result: TunnelClosed;
    errors:
      | "INVALID_PARAMS"
      | "TIMEOUT"
      | "TOO_LARGE"
      | "LIMIT_EXCEEDED"
      | "FORBIDDEN"
      | "INTERNAL_ERROR"
      | "INVALID_STATE";
  };
  /** Find a peer's addresses */
  "dht.find_peer": {
    params: {
      /** a peer's id: base58btc text, such as 12D3KooW… */
      peerId: string;
      /** the longest that the call may take, in ms; [node] request_timeout if left out */
      timeout?: number | null | undefined;
    };
    args: [peerId: string, timeout?: number | null | undefined];
    result: FoundPeer;
    errors:
      | "INVALID_PARAMS"
      | "TIMEOUT"
      | "TOO_LARGE"
      | "LIMIT_EXCEEDED"
      | "FORBIDDEN"
      | "INTERNAL_ERROR"
      | "NODE_NOT_RUNNING"
      | "FEATURE_DISABLED"
      | "PEER_NOT_FOUND";
  };
  /** Find the providers of a key */
  "dht.find_providers": {
    params: {
      /** in the given `encoding` */
      key: string;
      /** text if left out */
      encoding?: "base64" | "cid" | "text" | null | undefined;
      /** how many providers are enough; 20 if left out */
      count?: number | null | undefined;
      /** the longest that the call may take, in ms; [node] request_timeout if left out */
      timeout?: number | null | undefined;
      /** identifies the search in its events; generated if left out */
      queryId?: string | null | undefined;
    };
    args: [key: string, encoding?: "base64" | "cid" | "text" | null | undefined, count?: number | null | undefined, timeout?: number | null | undefined, queryId?: string | null | undefined];
    result: FoundProviders;
    errors:
      | "INVALID_PARAMS"
      | "TIMEOUT"
      | "TOO_LARGE"
      | "LIMIT_EXCEEDED"
      | "FORBIDDEN"
      | "INTERNAL_ERROR"
      | "NODE_NOT_RUNNING"
      | "FEATURE_DISABLED";
  };
  /** Announce that this node provides a key */
  "dht.provide": {
    params: {
      /** in the given `encoding` */
      key: string;
      /** text if left out */
      encoding?: "base64" | "cid" | "text" | null | undefined;
      /** the longest that the call may take, in ms; [node] request_timeout if left out */
      timeout?: number | null | undefined;
    };
    args: [key: string, encoding?: "base64" | "cid" | "text" | null | undefined, timeout?: number | null | undefined];
    result: Provided;
    errors:
      | "INVALID_PARAMS"
      | "TIMEOUT"
      | "TOO_LARGE"
      | "LIMIT_EXCEEDED"
      | "FORBIDDEN"
      | "INTERNAL_ERROR"
      | "NODE_NOT_RUNNING"
      | "FEATURE_DISABLED"
      | "INVALID_STATE";
  };
  /** Get the value of a key */
  "dht.get_value": {
    params: {
      /** in the given `encoding` */
      key: string;
      /** text if left out */
      encoding?: "base64" | "cid" | "text" | null | undefined;
      /** how many peers must return the same value; 4 if left out */
      quorum?: number | null | undefined;
      /** the longest that the call may take, in ms; [node] request_timeout if left out */
      timeout?: number | null | undefined;
      /** identifies the search in its events; generated if left out */
      queryId?: string | null | undefined;
    };
    args: [key: string, encoding?: "base64" | "cid" | "text" | null | undefined, quorum?: number | null | undefined, timeout?: number | null | undefined, queryId?: string | null | undefined];
    result: FoundValue;
    errors:
      | "INVALID_PARAMS"
      | "TIMEOUT"
      | "TOO_LARGE"
      | "LIMIT_EXCEEDED"
      | "FORBIDDEN"
      | "INTERNAL_ERROR"
      | "NODE_NOT_RUNNING"
      | "FEATURE_DISABLED";
  };
  /** Store a value under a key */
  "dht.put_value": {
    params: {
      /** in the given `encoding` */
      key: string;
      /** base64 */
      value: string;
      /** text if left out */
      encoding?: "base64" | "cid" | "text" | null | undefined;
      /** the longest that the call may take, in ms; [node] request_timeout if left out */
      timeout?: number | null | undefined;
    };
    args: [key: string, value: string, encoding?: "base64" | "cid" | "text" | null | undefined, timeout?: number | null | undefined];
    result: StoredValue;
    errors:
      | "INVALID_PARAMS"
      | "TIMEOUT"
      | "TOO_LARGE"
      | "LIMIT_EXCEEDED"
      | "FORBIDDEN"
      | "INTERNAL_ERROR"
      | "NODE_NOT_RUNNING"
      | "FEATURE_DISABLED"
      | "INVALID_STATE";
  };
  /** Stop announcing a key */
  "dht.forget": {
    params: {
      /** in the given `encoding` */
      key: string;
      /** text if left out */
      encoding?: "base64" | "cid" | "text" | null | undefined;
    };
    args: [key: string, encoding?: "base64" | "cid" | "text" | null | undefined];
    result: Forgotten;
    errors:
      | "INVALID_PARAMS"
      | "TIMEOUT"
      | "TOO_LARGE"
      | "LIMIT_EXCEEDED"
      | "FORBIDDEN"
      | "INTERNAL_ERROR"
      | "NODE_NOT_RUNNING"
      | "FEATURE_DISABLED"
      | "INVALID_STATE";
  };
  /** State of the DHT */
  "dht.status": {
    params: Record<string, never>;
    args: [];
    result: DhtStatus;
    errors:
      | "INVALID_PARAMS"
      | "TIMEOUT"
      | "TOO_LARGE"
      | "LIMIT_EXCEEDED"
      | "FORBIDDEN"
      | "INTERNAL_ERROR"
      | "NODE_NOT_RUNNING"
      | "FEATURE_DISABLED";
  };
  /** The DHT's routing table */
  "dht.routing": {
    params: Record<string, never>;
    args: [];
    result: DhtRouting;
    errors:
      | "INVALID_PARAMS"
      | "TIMEOUT"
      | "TOO_LARGE"
      | "LIMIT_EXCEEDED"
      | "FORBIDDEN"
      | "INTERNAL_ERROR"
      | "NODE_NOT_RUNNING"
      | "FEATURE_DISABLED";
  };
  /** Announce capabilities of this node */
  "fabstir.announce": {
    params: {
      /** such as names of models */
      capabilities: string[];
      /** any JSON object, which other nodes can read */
      metadata?: Record<string, unknown> | null | undefined;
      /** ms for each record */
      timeout?: number | null | undefined;
    };
    args: [capabilities: string[], metadata?: Record<string, unknown> | null | undefined, timeout?: number | null | undefined];
    result: Announced;
    errors:
      | "INVALID_PARAMS"
      | "TIMEOUT"
      | "TOO_LARGE"
      | "LIMIT_EXCEEDED"
      | "FORBIDDEN"
      | "INTERNAL_ERROR"
      | "NODE_NOT_RUNNING"
      | "FEATURE_DISABLED"
      | "INVALID_STATE";
  };
  /** Stop announcing capabilities */
  "fabstir.withdraw": {
    params: {
      /** names of announced capabilities */
      capabilities: string[];
    };
    args: [capabilities: string[]];
    result: Withdrawn;
    errors:
      | "INVALID_PARAMS"
      | "TIMEOUT"
      | "TOO_LARGE"
      | "LIMIT_EXCEEDED"
      | "FORBIDDEN"
      | "INTERNAL_ERROR"
      | "NODE_NOT_RUNNING"
      | "FEATURE_DISABLED"
      | "INVALID_STATE";
  };
  /** Find nodes that serve a model */
  "fabstir.discover": {
    params: {
      /** the name of a capability */
      model: string;
      /** which nodes to return, and which to list first */
      filters?: DiscoverFilters | null | undefined;
      /** search even if a result is cached */
      forceRefresh?: boolean | null | undefined;
      /** ms */
      timeout?: number | null | undefined;
    };
    args: [model: string, filters?: DiscoverFilters | null | undefined, forceRefresh?: boolean | null | undefined, timeout?: number | null | undefined];
    result: Discovered;
    errors:
      | "INVALID_PARAMS"
      | "TIMEOUT"
      | "TOO_LARGE"
      | "LIMIT_EXCEEDED"
      | "FORBIDDEN"
      | "INTERNAL_ERROR"
      | "NODE_NOT_RUNNING"
      | "FEATURE_DISABLED";
  };
  /** Nodes, for the SDK's bridge client */
  discover: {
    params: {
      /** which nodes to return; all connected peers if left out */
      filter?: BridgeFilter | null | undefined;
    };
    args: [filter?: BridgeFilter | null | undefined];
    result: BridgeNodes;
    errors:
      | "INVALID_PARAMS"
      | "TIMEOUT"
      | "TOO_LARGE"
      | "LIMIT_EXCEEDED"
      | "FORBIDDEN"
      | "INTERNAL_ERROR"
      | "FEATURE_DISABLED"
      | "NODE_NOT_RUNNING";
  };
  /** Send JSON to a peer's bridge clients */
  sendMessage: {
    params: {
      /** a peer's id: base58btc text, such as 12D3KooW… */
      peerId: string;
      /** any JSON; the SDK sends objects {type, payload} */
      message: unknown;
    };
    args: [peerId: string, message: unknown];
    result: BridgeSent;
    errors:
      | "INVALID_PARAMS"
      | "TIMEOUT"
      | "TOO_LARGE"
      | "LIMIT_EXCEEDED"
      | "FORBIDDEN"
      | "INTERNAL_ERROR"
      | "FEATURE_DISABLED"
      | "NODE_NOT_RUNNING"
      | "PEER_NOT_FOUND"
      | "DIAL_FAILED"
      | "INVALID_STATE";
  };
  /** The node's state, for the SDK's bridge client */
  getStatus: {
    params: Record<string, never>;
    args: [];
    result: BridgeStatus;
    errors:
      | "INVALID_PARAMS"
      | "TIMEOUT"
      | "TOO_LARGE"
      | "LIMIT_EXCEEDED"
      | "FORBIDDEN"
      | "INTERNAL_ERROR"
      | "FEATURE_DISABLED";
  };
  /** Create a token */
  "token.create": {
    params: {
      /** 1 to 64 letters, digits and . _ - */
      name: string;
      /** what it grants; each level includes those before it */
      access: "admin" | "read" | "write";
      /** the only methods that it may call; without it, all that `access` allows */
      methods?: string[] | null | undefined;
      /** ms; without it, the token is valid until it is revoked */
      expiresIn?: number | null | undefined;
      /** patterns of the protocols that it may handle, open and request, at most 64; * stands for any characters */
      protocols?: string[] | null | undefined;
      /** ids of the peers that its calls may name, at most 64 */
      peers?: string[] | null | undefined;
    };
    args: [name: string, access: "admin" | "read" | "write", methods?: string[] | null | undefined, expiresIn?: number | null | undefined, protocols?: string[] | null | undefined, peers?: string[] | null | undefined];
    result: TokenCreated;
    errors:
      | "INVALID_PARAMS"
      | "TIMEOUT"
      | "TOO_LARGE"
      | "LIMIT_EXCEEDED"
      | "FORBIDDEN"
      | "INTERNAL_ERROR"
      | "INVALID_STATE";
  };
  /** All tokens */
  "token.list": {
    params: Record<string, never>;
    args: [];
    result: TokenRecord[];
    errors:
      "INVALID_PARAMS" | "TIMEOUT" | "TOO_LARGE" | "LIMIT_EXCEEDED" | "FORBIDDEN" | "INTERNAL_ERROR";
  };
  /** Revoke a token, at once */
  "token.revoke": {
    params: {
      /** the token's name */
      name: string;
    };
    args: [name: string];
    result: TokenRevoked;
    errors:
      | "INVALID_PARAMS"
      | "TIMEOUT"
      | "TOO_LARGE"
      | "LIMIT_EXCEEDED"
      | "FORBIDDEN"
      | "INTERNAL_ERROR"
      | "INVALID_STATE";
  };
  /** The latest calls that changed something */
  audit: {
    params: {
      /** only entries with a higher `seq` */
      after?: number | null | undefined;
      /** entries at most: the oldest after `after`, or the newest of all without it */
      limit?: number | null | undefined;
    };
    args: [after?: number | null | undefined, limit?: number | null | undefined];
    result: AuditResult;
    errors:
      "INVALID_PARAMS" | "TIMEOUT" | "TOO_LARGE" | "LIMIT_EXCEEDED" | "FORBIDDEN" | "INTERNAL_ERROR";
  };
  /** The task tree: what every task is waiting for */
  "debug.tasks": {
    params: Record<string, never>;
    args: [];
    result: TaskTree;
    errors:
      "INVALID_PARAMS" | "TIMEOUT" | "TOO_LARGE" | "LIMIT_EXCEEDED" | "FORBIDDEN" | "INTERNAL_ERROR";
  };
  /** A zip file for diagnosing faults */
  "debug.dump": {
    params: Record<string, never>;
    args: [];
    result: Dump;
    errors:
      "INVALID_PARAMS" | "TIMEOUT" | "TOO_LARGE" | "LIMIT_EXCEEDED" | "FORBIDDEN" | "INTERNAL_ERROR";
  };
  /** Change the log level */
  "log.level": {
    params: {
      /** one logger and those below it, such as p2p, api.http or libp2p; all if left out */
      logger?: string | null | undefined;
      /** "inherit" only with `logger`; unchanged if left out */
      level?: "debug" | "info" | "warning" | "error" | "inherit" | null | undefined;
    };
    args: [logger?: string | null | undefined, level?: "debug" | "info" | "warning" | "error" | "inherit" | null | undefined];
    result: LogLevels;
    errors:
      "INVALID_PARAMS" | "TIMEOUT" | "TOO_LARGE" | "LIMIT_EXCEEDED" | "FORBIDDEN" | "INTERNAL_ERROR";
  };
  /** A single-use code that opens the page at /ui */
  "ui.code": {
    params: {
      /** of the token that the code is exchanged for; at most the caller's own level */
      access?: "admin" | "read" | "write" | undefined;
    };
    args: [access?: "admin" | "read" | "write" | undefined];
    result: UiCode;
    errors:
      | "INVALID_PARAMS"
      | "TIMEOUT"
      | "TOO_LARGE"
      | "LIMIT_EXCEEDED"
      | "FORBIDDEN"
      | "INTERNAL_ERROR"
      | "FEATURE_DISABLED";
  };
  /** Addresses that the node dials, and the state of each */
  dials: {
    params: Record<string, never>;
    args: [];
    result: DialRecord[];
    errors:
      "INVALID_PARAMS" | "TIMEOUT" | "TOO_LARGE" | "LIMIT_EXCEEDED" | "FORBIDDEN" | "INTERNAL_ERROR";
  };
  /** The newest lines of the daemon's log */
  "log.tail": {
    params: {
      /** only lines after this one; without it, the newest */
      after?: number | null | undefined;
      /** only lines of this level and above */
      level?: "critical" | "debug" | "error" | "info" | "warning" | undefined;
      /** number of lines at most, 1 to 1000; 200 if left out */
      limit?: number | null | undefined;
    };
    args: [after?: number | null | undefined, level?: "critical" | "debug" | "error" | "info" | "warning" | undefined, limit?: number | null | undefined];
    result: LogTail;
    errors:
      "INVALID_PARAMS" | "TIMEOUT" | "TOO_LARGE" | "LIMIT_EXCEEDED" | "FORBIDDEN" | "INTERNAL_ERROR";
  };
  /** This document */
  "rpc.discover": {
    params: Record<string, never>;
    args: [];
    result: Record<string, unknown>;
    errors:
      "INVALID_PARAMS" | "TIMEOUT" | "TOO_LARGE" | "LIMIT_EXCEEDED" | "FORBIDDEN" | "INTERNAL_ERROR";
  };
}

export type Method = keyof MethodTypes;

/** What each method needs: its access, and the order of its parameters. */
export const METHODS = {
  start: { access: "write", params: ["config"] },
  stop: { access: "write", params: [] },
  status: { access: "read", params: [] },
  peers: { access: "read", params: [] },
  addresses: { access: "read", params: [] },
  metrics: { access: "read", params: [] },
  connect: { access: "write", params: ["address", "timeout"] },
  disconnect: { access: "write", params: ["peerId"] },
  ping: { access: "read", params: ["peerId", "timeout"] },
  subscribe: { access: "read", params: ["types", "after", "epoch"] },
  unsubscribe: { access: "read", params: ["subscription"] },
  events: { access: "read", params: ["after", "epoch", "types", "limit", "timeout"] },
  wait: { access: "read", params: ["state", "peers", "peerId", "protocol", "timeout"] },
  config: { access: "read", params: [] },
  version: { access: "read", params: [] },
  shutdown: { access: "admin", params: [] },
  "peer.tag": { access: "write", params: ["peerId", "tag", "value"] },
  "peer.untag": { access: "write", params: ["peerId", "tag"] },
  "peer.protect": { access: "write", params: ["peerId"] },
  "peer.unprotect": { access: "write", params: ["peerId"] },
  "peer.ban": { access: "write", params: ["target", "duration", "reason", "peerId", "ip", "cidr"] },
  "peer.unban": { access: "write", params: ["target", "peerId", "ip", "cidr"] },
  "peer.bans": { access: "read", params: [] },
  "peer.keep": { access: "write", params: ["address", "lease"] },
  "peer.forget": { access: "write", params: ["target", "peerId", "address"] },
  "peer.explain": { access: "read", params: ["target", "peerId", "address"] },
  "stream.open": { access: "write", params: ["peerId", "protocol", "timeout"] },
  "stream.accept": { access: "write", params: ["streamId"] },
  "stream.reset": { access: "write", params: ["streamId"] },
  "stream.list": { access: "read", params: [] },
  request: { access: "write", params: ["peerId", "protocol", "data", "framing", "timeout"] },
  "protocol.handle": { access: "write", params: ["protocol", "mode", "framing", "deadline", "backlog", "acceptTimeout", "shared"] },
  "protocol.unhandle": { access: "write", params: ["protocol"] },
  "protocol.read": { access: "read", params: ["requestId"] },
  "protocol.respond": { access: "write", params: ["requestId", "data"] },
  "tunnel.listen": { access: "admin", params: ["protocol", "target", "peers", "proxyProtocol", "keep", "lease"] },
  "tunnel.forward": { access: "admin", params: ["peerId", "protocol", "listen", "keep", "lease"] },
  "tunnel.list": { access: "admin", params: [] },
  "tunnel.close": { access: "admin", params: ["tunnelId"] },
  "dht.find_peer": { access: "read", params: ["peerId", "timeout"] },
  "dht.find_providers": { access: "read", params: ["key", "encoding", "count", "timeout", "queryId"] },
  "dht.provide": { access: "write", params: ["key", "encoding", "timeout"] },
  "dht.get_value": { access: "read", params: ["key", "encoding", "quorum", "timeout", "queryId"] },
  "dht.put_value": { access: "write", params: ["key", "value", "encoding", "timeout"] },
  "dht.forget": { access: "write", params: ["key", "encoding"] },
  "dht.status": { access: "read", params: [] },
  "dht.routing": { access: "read", params: [] },
  "fabstir.announce": { access: "write", params: ["capabilities", "metadata", "timeout"] },
  "fabstir.withdraw": { access: "write", params: ["capabilities"] },
  "fabstir.discover": { access: "read", params: ["model", "filters", "forceRefresh", "timeout"] },
  discover: { access: "read", params: ["filter"] },
  sendMessage: { access: "write", params: ["peerId", "message"] },
  getStatus: { access: "read", params: [] },
  "token.create": { access: "admin", params: ["name", "access", "methods", "expiresIn", "protocols", "peers"] },
  "token.list": { access: "admin", params: [] },
  "token.revoke": { access: "admin", params: ["name"] },
  audit: { access: "admin", params: ["after", "limit"] },
  "debug.tasks": { access: "admin", params: [] },
  "debug.dump": { access: "admin", params: [] },
  "log.level": { access: "admin", params: ["logger", "level"] },
  "ui.code": { access: "read", params: ["access"] },
  dials: { access: "read", params: [] },
  "log.tail": { access: "admin", params: ["after", "level", "limit"] },
  "rpc.discover": { access: "read", params: [] },
} as const satisfies Record<Method, MethodNeeds>;

export interface MethodNeeds {
  readonly access: "read" | "write" | "admin";
  readonly params: readonly string[];
}

/** What ends a call early: `timeout` is the client's own bound, in ms; `signal` ends the wait for it. */
export interface CallOptions {
  timeout?: number | undefined;
  signal?: AbortSignal | undefined;
}

/** The methods of the daemon as methods of a class, parameters by position. */
export abstract class Methods {
  abstract call<M extends Method>(
    method: M, params?: MethodTypes[M]["params"] | MethodTypes[M]["args"], options?: CallOptions,
  ): Promise<MethodTypes[M]["result"]>;

  /**
   * Start the node; `config` overrides keys for this run. Idempotent. Returns once the node listens, without waiting
   * for any dial. `config` applies to this run only. If the node cannot listen, its state becomes "failed"; call
   * `start` again once the cause is corrected.
   * Access: write.
   * @param config for this run only; checked as the configuration file is
   */
  start(config?: NodeOverrides | null | undefined, options?: CallOptions): Promise<Status> {
    return this.call("start", [config], options);
  }

  /**
   * Stop the node: end connections, dials and pending retries. Idempotent. Ends connections, dials and pending
   * retries. The API stays up, and `start` starts the node again with the same peer id.
   * Access: write.
   */
  stop(options?: CallOptions): Promise<Status> {
    return this.call("stop", [], options);
  }

  /**
   * State of the node, and the newest event. Answers at once, in every state of the node.
   * Access: read.
   */
  status(options?: CallOptions): Promise<Status> {
    return this.call("status", [], options);
  }

  /**
   * Connected peers, one entry for each.
   * Access: read.
   */
  peers(options?: CallOptions): Promise<Peer[]> {
    return this.call("peers", [], options);
  }

  /**
   * Addresses: listened on, announced, observed by peers.
   * Access: read.
   */
  addresses(options?: CallOptions): Promise<Addresses> {
    return this.call("addresses", [], options);
  }

  /**
   * Counters since the daemon started.
   * Access: read.
   */
  metrics(options?: CallOptions): Promise<Metrics> {
    return this.call("metrics", [], options);
  }

  /**
   * Connect to a multiaddr or to a known peer. Does nothing if the peer is already connected. The dial ignores any
   * back-off.
   * Access: write.
   * @param address a multiaddr with /p2p/<peer id>, or a peer id whose addresses are known
   * @param timeout the longest that the call may take, in ms; [node] request_timeout if left out
   */
  connect(address: string, timeout?: number | null | undefined, options?: CallOptions): Promise<ConnectResult> {
    return this.call("connect", [address, timeout], options);
  }

  /**
   * Close all connections to a peer. A bootstrap node is not dialled again for [node] keepalive_interval.
   * Access: write.
   * @param peerId a peer's id: base58btc text, such as 12D3KooW…
   */
  disconnect(peerId: string, options?: CallOptions): Promise<DisconnectResult> {
    return this.call("disconnect", [peerId], options);
  }

  /**
   * Measure the round-trip time to a connected peer.
   * Access: read.
   * @param peerId a peer's id: base58btc text, such as 12D3KooW…
   * @param timeout the longest that the call may take, in ms; [node] request_timeout if left out
   */
  ping(peerId: string, timeout?: number | null | undefined, options?: CallOptions): Promise<PingResult> {
    return this.call("ping", [peerId, timeout], options);
  }

  /**
   * Wait until the node is in a given state. Answers as soon as all given conditions hold at the same time; without
   * any, at once. With `peerId`, that peer must speak `protocol`; otherwise any peer may. Fails with TIMEOUT if they
   * do not hold in time.
   * Access: read.
   * @param state of the node
   * @param peers at least so many are connected
   * @param peerId is connected
   * @param protocol `peerId` speaks it, or any peer
   * @param timeout ms
   */
  wait(state: "failed" | "started" | "starting" | "stopped" | "stopping" | null | undefined, peers: number | null | undefined, peerId: string | null | undefined, protocol: string | null | undefined, timeout: number, options?: CallOptions): Promise<WaitResult> {
    return this.call("wait", [state, peers, peerId, protocol, timeout], options);
  }

  /**
   * The effective configuration. Has the keys of the configuration file, without tokens. While the node runs with
   * overrides from `start`, `[node]` shows the values in effect.
   * Access: read.
   */
  config(options?: CallOptions): Promise<Config> {
    return this.call("config", [], options);
  }

  /**
   * Versions, and the protocols that the node answers.
   * Access: read.
   */
  version(options?: CallOptions): Promise<VersionResult> {
    return this.call("version", [], options);
  }

  /**
   * Stop the daemon, as SIGTERM does. Answers before the daemon stops.
   * Access: admin.
   */
  shutdown(options?: CallOptions): Promise<Empty> {
    return this.call("shutdown", [], options);
  }

  /**
   * Nodes, for the SDK's bridge client. With capabilities, the nodes that provide all of them, as `fabstir.discover`
   * finds them; without, the connected peers.
   * Access: read.
   * @param filter which nodes to return; all connected peers if left out
   */
  discover(filter?: BridgeFilter | null | undefined, options?: CallOptions): Promise<BridgeNodes> {
    return this.call("discover", [filter], options);
  }

  /**
   * Send JSON to a peer's bridge clients. The other daemon pushes `{"type": "p2p_message", "data": MESSAGE}` to each
   * of its bridge clients: the WebSockets on which only the bridge's methods have been called. In MESSAGE, `from` is
   * set to this node's peer id, and `timestamp` is added if it is missing. A message that is not an object becomes
   * the `payload` of one.
   * Access: write.
   * @param peerId a peer's id: base58btc text, such as 12D3KooW…
   * @param message any JSON; the SDK sends objects {type, payload}
   */
  sendMessage(peerId: string, message: unknown, options?: CallOptions): Promise<BridgeSent> {
    return this.call("sendMessage", [peerId, message], options);
  }

  /**
   * The node's state, for the SDK's bridge client. The state of the node, in the form that the SDK expects.
   * Access: read.
   */
  getStatus(options?: CallOptions): Promise<BridgeStatus> {
    return this.call("getStatus", [], options);
  }

  /**
   * The latest calls that changed something.
   * Access: admin.
   * @param after only entries with a higher `seq`
   * @param limit entries at most: the oldest after `after`, or the newest of all without it
   */
  audit(after?: number | null | undefined, limit?: number | null | undefined, options?: CallOptions): Promise<AuditResult> {
    return this.call("audit", [after, limit], options);
  }

  /**
   * Addresses that the node dials, and the state of each. Bootstrap nodes, kept addresses and relays: for each, the
   * state of its dial cycle, when the next dial is due, and why the last one failed. Empty while the node is stopped.
   * Access: read.
   */
  dials(options?: CallOptions): Promise<DialRecord[]> {
    return this.call("dials", [], options);
  }

  /** The methods `peer.*`. */
  readonly peer = {
    /**
     * Tag a peer; trimming spares high values.
     * Access: write.
     * @param peerId a peer's id: base58btc text, such as 12D3KooW…
     * @param tag any text that says what the value is for
     * @param value the higher the sum over a peer's tags, the longer trimming spares it
     */
    tag: (peerId: string, tag: string, value: number, options?: CallOptions): Promise<PeerTags> =>
      this.call("peer.tag", [peerId, tag, value], options),
    /**
     * Remove a tag from a peer.
     * Access: write.
     * @param peerId a peer's id: base58btc text, such as 12D3KooW…
     * @param tag any text that says what the value is for
     */
    untag: (peerId: string, tag: string, options?: CallOptions): Promise<PeerTags> =>
      this.call("peer.untag", [peerId, tag], options),
    /**
     * Never trim a peer.
     * Access: write.
     * @param peerId a peer's id: base58btc text, such as 12D3KooW…
     */
    protect: (peerId: string, options?: CallOptions): Promise<PeerTags> =>
      this.call("peer.protect", [peerId], options),
    /**
     * Let a peer be trimmed again.
     * Access: write.
     * @param peerId a peer's id: base58btc text, such as 12D3KooW…
     */
    unprotect: (peerId: string, options?: CallOptions): Promise<PeerTags> =>
      this.call("peer.unprotect", [peerId], options),
    /**
     * Ban a peer id, an IP address or a network. Closes its connections. From then on, connections from and to it are
     * refused, across restarts.
     * Access: write.
     * @param target a peer id, an IP address or a network in CIDR notation
     * @param duration ms; permanent if left out
     * @param reason for people
     * @param peerId a peer's id: base58btc text, such as 12D3KooW…
     * @param ip an IP address
     * @param cidr a network, such as 192.0.2.0/24
     */
    ban: (target?: string | null | undefined, duration?: number | null | undefined, reason?: string | null | undefined, peerId?: string | null | undefined, ip?: string | null | undefined, cidr?: string | null | undefined, options?: CallOptions): Promise<BanResult> =>
      this.call("peer.ban", [target, duration, reason, peerId, ip, cidr], options),
    /**
     * Lift a ban.
     * Access: write.
     * @param target a peer id, an IP address or a network in CIDR notation
     * @param peerId a peer's id: base58btc text, such as 12D3KooW…
     * @param ip an IP address
     * @param cidr a network, such as 192.0.2.0/24
     */
    unban: (target?: string | null | undefined, peerId?: string | null | undefined, ip?: string | null | undefined, cidr?: string | null | undefined, options?: CallOptions): Promise<UnbanResult> =>
      this.call("peer.unban", [target, peerId, ip, cidr], options),
    /**
     * Bans in force.
     * Access: read.
     */
    bans: (options?: CallOptions): Promise<BanRecord[]> =>
      this.call("peer.bans", [], options),
    /**
     * Stay connected to an address, across restarts. The node keeps dialling the address, as it does a bootstrap
     * node, until `peer.forget`: across restarts, or with a lease for as long as this connection, an IPC socket or a
     * WebSocket, is open. An address that several connections have leased is kept until the last of them closes.
     * Access: write.
     * @param address a multiaddr with /p2p/<peer id>
     * @param lease kept for as long as this connection is open; for good if left out
     */
    keep: (address: string, lease?: "connection" | null | undefined, options?: CallOptions): Promise<KeepResult> =>
      this.call("peer.keep", [address, lease], options),
    /**
     * Stop keeping an address or a peer. An open connection stays open. Addresses leased by other connections are
     * still kept.
     * Access: write.
     * @param target a peer id or a multiaddr
     * @param peerId a peer's id: base58btc text, such as 12D3KooW…
     * @param address multiaddr
     */
    forget: (target?: string | null | undefined, peerId?: string | null | undefined, address?: string | null | undefined, options?: CallOptions): Promise<ForgetResult> =>
      this.call("peer.forget", [target, peerId, address], options),
    /**
     * Why a peer is or is not connected. Includes the dials, bans, limits and errors that led to this state.
     * Access: read.
     * @param target a peer id or a multiaddr
     * @param peerId a peer's id: base58btc text, such as 12D3KooW…
     * @param address multiaddr
     */
    explain: (target?: string | null | undefined, peerId?: string | null | undefined, address?: string | null | undefined, options?: CallOptions): Promise<Explanation> =>
      this.call("peer.explain", [target, peerId, address], options),
  };

  /** The methods `stream.*`. */
  readonly stream = {
    /**
     * Reset a stream. Resets a stream in both directions, at once. A stream that waits to be accepted is refused.
     * Access: write.
     * @param streamId identifies a stream
     */
    reset: (streamId: string, options?: CallOptions): Promise<ResetResult> =>
      this.call("stream.reset", [streamId], options),
    /**
     * Streams, including those that ended in the last minute. The caller's own streams; with admin access, all
     * streams.
     * Access: read.
     */
    list: (options?: CallOptions): Promise<StreamRecord[]> =>
      this.call("stream.list", [], options),
  };

  /** The methods `tunnel.*`. */
  readonly tunnel = {
    /**
     * Connect peers' streams to a local program. Connects peers' streams on the protocol to the target, which must be
     * on this machine unless `[tunnels] allow` lists it. The tunnel lasts until it is closed or the daemon ends; with
     * a lease, until this connection closes; with `keep`, across restarts of the daemon.
     * Access: admin.
     * @param protocol protocol id, such as /ipfs/ping/1.0.0
     * @param target where peers' streams are connected to: host:port, or unix:/path
     * @param peers ids of the peers that may use it; all if left out
     * @param proxyProtocol whether a PROXY v2 header that names the peer is sent to the target first
     * @param keep whether it survives a restart of the daemon
     * @param lease closed when this connection closes; not together with `keep`
     */
    listen: (protocol: string, target: string, peers?: string[] | null | undefined, proxyProtocol?: boolean | null | undefined, keep?: boolean | null | undefined, lease?: "connection" | null | undefined, options?: CallOptions): Promise<TunnelRecord> =>
      this.call("tunnel.listen", [protocol, target, peers, proxyProtocol, keep, lease], options),
    /**
     * Connect local programs to a peer. Connects programs that connect to the socket to the peer, on the protocol.
     * The daemon keeps dialling the peer; while it is not connected, programs' connections are closed at once. The
     * tunnel lasts until it is closed or the daemon ends; with a lease, until this connection closes; with `keep`,
     * across restarts of the daemon.
     * Access: admin.
     * @param peerId a peer's id: base58btc text, such as 12D3KooW…
     * @param protocol protocol id, such as /ipfs/ping/1.0.0
     * @param listen where programs connect: 127.0.0.1:PORT (0 for a free port), or unix:/path
     * @param keep whether it survives a restart of the daemon
     * @param lease closed when this connection closes; not together with `keep`
     */
    forward: (peerId: string, protocol: string, listen: string, keep?: boolean | null | undefined, lease?: "connection" | null | undefined, options?: CallOptions): Promise<TunnelRecord> =>
      this.call("tunnel.forward", [peerId, protocol, listen, keep, lease], options),
    /**
     * All tunnels, and their traffic.
     * Access: admin.
     */
    list: (options?: CallOptions): Promise<TunnelRecord[]> =>
      this.call("tunnel.list", [], options),
    /**
     * Close a tunnel. Closes the tunnel, and ends its open streams.
     * Access: admin.
     * @param tunnelId identifies a tunnel
     */
    close: (tunnelId: string, options?: CallOptions): Promise<TunnelClosed> =>
      this.call("tunnel.close", [tunnelId], options),
  };

  /** The methods `dht.*`. */
  readonly dht = {
    /**
     * Find a peer's addresses. Finds the peer's addresses, from other nodes or the peer itself. `connect` can use
     * them afterwards.
     * Access: read.
     * @param peerId a peer's id: base58btc text, such as 12D3KooW…
     * @param timeout the longest that the call may take, in ms; [node] request_timeout if left out
     */
    findPeer: (peerId: string, timeout?: number | null | undefined, options?: CallOptions): Promise<FoundPeer> =>
      this.call("dht.find_peer", [peerId, timeout], options),
    /**
     * Find the providers of a key. Each provider is also published as a `dht:provider` event as soon as it is found.
     * If the deadline ends the search, what was found is returned, with `complete` false.
     * Access: read.
     * @param key in the given `encoding`
     * @param encoding text if left out
     * @param count how many providers are enough; 20 if left out
     * @param timeout the longest that the call may take, in ms; [node] request_timeout if left out
     * @param queryId identifies the search in its events; generated if left out
     */
    findProviders: (key: string, encoding?: "base64" | "cid" | "text" | null | undefined, count?: number | null | undefined, timeout?: number | null | undefined, queryId?: string | null | undefined, options?: CallOptions): Promise<FoundProviders> =>
      this.call("dht.find_providers", [key, encoding, count, timeout, queryId], options),
    /**
     * Announce that this node provides a key. Announces this node to the peers closest to the key. They do not
     * acknowledge it, so `confirmed` counts those that list this node when queried. The key is announced again when
     * too few of them still have it, and every twelve hours, across restarts, until `dht.forget`.
     * Access: write.
     * @param key in the given `encoding`
     * @param encoding text if left out
     * @param timeout the longest that the call may take, in ms; [node] request_timeout if left out
     */
    provide: (key: string, encoding?: "base64" | "cid" | "text" | null | undefined, timeout?: number | null | undefined, options?: CallOptions): Promise<Provided> =>
      this.call("dht.provide", [key, encoding, timeout], options),
    /**
     * Get the value of a key. Each peer's answer is also published as a `dht:value` event. If the key names its
     * owner, the owner's value wins; otherwise the one that most peers returned.
     * Access: read.
     * @param key in the given `encoding`
     * @param encoding text if left out
     * @param quorum how many peers must return the same value; 4 if left out
     * @param timeout the longest that the call may take, in ms; [node] request_timeout if left out
     * @param queryId identifies the search in its events; generated if left out
     */
    getValue: (key: string, encoding?: "base64" | "cid" | "text" | null | undefined, quorum?: number | null | undefined, timeout?: number | null | undefined, queryId?: string | null | undefined, options?: CallOptions): Promise<FoundValue> =>
      this.call("dht.get_value", [key, encoding, quorum, timeout, queryId], options),
    /**
     * Store a value under a key. Stores the value at the peers closest to the key. It is stored again when too few of
     * them still have it, and every twelve hours, across restarts, until `dht.forget`. go-libp2p peers refuse keys
     * outside the namespaces that they know.
     * Access: write.
     * @param key in the given `encoding`
     * @param value base64
     * @param encoding text if left out
     * @param timeout the longest that the call may take, in ms; [node] request_timeout if left out
     */
    putValue: (key: string, value: string, encoding?: "base64" | "cid" | "text" | null | undefined, timeout?: number | null | undefined, options?: CallOptions): Promise<StoredValue> =>
      this.call("dht.put_value", [key, value, encoding, timeout], options),
    /**
     * Stop announcing a key. Stops announcing the key. Other nodes keep their records until these expire.
     * Access: write.
     * @param key in the given `encoding`
     * @param encoding text if left out
     */
    forget: (key: string, encoding?: "base64" | "cid" | "text" | null | undefined, options?: CallOptions): Promise<Forgotten> =>
      this.call("dht.forget", [key, encoding], options),
    /**
     * State of the DHT. The mode of the DHT, how many peers it knows, what it stores for others, and what it
     * announces again.
     * Access: read.
     */
    status: (options?: CallOptions): Promise<DhtStatus> =>
      this.call("dht.status", [], options),
    /**
     * The DHT's routing table. The routing table, bucket by bucket. It holds almost all of the peers near this node's
     * position, and a few of the distant ones.
     * Access: read.
     */
    routing: (options?: CallOptions): Promise<DhtRouting> =>
      this.call("dht.routing", [], options),
  };

  /** The methods `fabstir.*`. */
  readonly fabstir = {
    /**
     * Announce capabilities of this node. Provides each capability under the Fabstir node's key and under the SDK's,
     * and stores the metadata under this node's peer id. All of it is announced again every twelve hours, across
     * restarts, until `fabstir.withdraw`.
     * Access: write.
     * @param capabilities such as names of models
     * @param metadata any JSON object, which other nodes can read
     * @param timeout ms for each record
     */
    announce: (capabilities: string[], metadata?: Record<string, unknown> | null | undefined, timeout?: number | null | undefined, options?: CallOptions): Promise<Announced> =>
      this.call("fabstir.announce", [capabilities, metadata, timeout], options),
    /**
     * Stop announcing capabilities. Stops announcing the capabilities, and after the last one the metadata too. Other
     * nodes keep their records until these expire.
     * Access: write.
     * @param capabilities names of announced capabilities
     */
    withdraw: (capabilities: string[], options?: CallOptions): Promise<Withdrawn> =>
      this.call("fabstir.withdraw", [capabilities], options),
    /**
     * Find nodes that serve a model. Returns the nodes that provide the model under either key: preferred ones first,
     * the others by reputation, latency and price. The model "any" stands for all models. If the DHT has no peers
     * yet, the call waits for the first. A complete result is cached for [dht] discover_ttl; `age` is the age of the
     * result.
     * Access: read.
     * @param model the name of a capability
     * @param filters which nodes to return, and which to list first
     * @param forceRefresh search even if a result is cached
     * @param timeout ms
     */
    discover: (model: string, filters?: DiscoverFilters | null | undefined, forceRefresh?: boolean | null | undefined, timeout?: number | null | undefined, options?: CallOptions): Promise<Discovered> =>
      this.call("fabstir.discover", [model, filters, forceRefresh, timeout], options),
  };

  /** The methods `token.*`. */
  readonly token = {
    /**
     * Create a token.
     * Access: admin.
     * @param name 1 to 64 letters, digits and . _ -
     * @param access what it grants; each level includes those before it
     * @param methods the only methods that it may call; without it, all that `access` allows
     * @param expiresIn ms; without it, the token is valid until it is revoked
     * @param protocols patterns of the protocols that it may handle, open and request, at most 64; * stands for any
     * characters
     * @param peers ids of the peers that its calls may name, at most 64
     */
    create: (name: string, access: "admin" | "read" | "write", methods?: string[] | null | undefined, expiresIn?: number | null | undefined, protocols?: string[] | null | undefined, peers?: string[] | null | undefined, options?: CallOptions): Promise<TokenCreated> =>
      this.call("token.create", [name, access, methods, expiresIn, protocols, peers], options),
    /**
     * All tokens.
     * Access: admin.
     */
    list: (options?: CallOptions): Promise<TokenRecord[]> =>
      this.call("token.list", [], options),
    /**
     * Revoke a token, at once.
     * Access: admin.
     * @param name the token's name
     */
    revoke: (name: string, options?: CallOptions): Promise<TokenRevoked> =>
      this.call("token.revoke", [name], options),
  };

  /** The methods `debug.*`. */
  readonly debug = {
    /**
     * The task tree: what every task is waiting for. The call stack of every task of the daemon, which shows where it
     * hangs.
     * Access: admin.
     */
    tasks: (options?: CallOptions): Promise<TaskTree> =>
      this.call("debug.tasks", [], options),
    /**
     * A zip file for diagnosing faults. The zip holds the configuration, versions, status, peers, metrics, the newest
     * 1,000 lines of the log, the newest 1,000 events, and the task tree. It holds no keys, tokens or payloads, but
     * it does show peers and their addresses.
     * Access: admin.
     */
    dump: (options?: CallOptions): Promise<Dump> =>
      this.call("debug.dump", [], options),
  };

  /** The methods `log.*`. */
  readonly log = {
    /**
     * Change the log level. Changes the level of the whole log, or of one logger, until the daemon ends or reloads
     * its configuration. Without `level`, it only returns the current levels.
     * Access: admin.
     * @param logger one logger and those below it, such as p2p, api.http or libp2p; all if left out
     * @param level "inherit" only with `logger`; unchanged if left out
     */
    level: (logger?: string | null | undefined, level?: "debug" | "info" | "warning" | "error" | "inherit" | null | undefined, options?: CallOptions): Promise<LogLevels> =>
      this.call("log.level", [logger, level], options),
    /**
     * The newest lines of the daemon's log. The newest lines of the daemon's log; the last 1,000 are kept.
     * Access: admin.
     * @param after only lines after this one; without it, the newest
     * @param level only lines of this level and above
     * @param limit number of lines at most, 1 to 1000; 200 if left out
     */
    tail: (after?: number | null | undefined, level?: "critical" | "debug" | "error" | "info" | "warning" | undefined, limit?: number | null | undefined, options?: CallOptions): Promise<LogTail> =>
      this.call("log.tail", [after, level, limit], options),
  };

  /** The methods `ui.*`. */
  readonly ui = {
    /**
     * A single-use code that opens the page at /ui. On the IPC socket only. The code can be used once, within 30 s.
     * The page exchanges it for a token with the given access, which expires after 12 hours.
     * Access: read.
     * @param access of the token that the code is exchanged for; at most the caller's own level
     */
    code: (access?: "admin" | "read" | "write" | undefined, options?: CallOptions): Promise<UiCode> =>
      this.call("ui.code", [access], options),
  };

  /** The methods `rpc.*`. */
  readonly rpc = {
    /**
     * This document.
     * Access: read.
     */
    discover: (options?: CallOptions): Promise<Record<string, unknown>> =>
      this.call("rpc.discover", [], options),
  };
}
