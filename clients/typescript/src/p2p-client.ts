/** `P2PClient`: the class of the Fabstir SDK, on top of the daemon. */
import { Client, type ConnectOptions, type OpenStreamOptions, type Restorable } from "./client.js";
import { fromBase64, toBase64 } from "./bytes.js";
import { hasCode, InvalidConfig, isFabstirError, record, words } from "./errors.js";
import { Emitter } from "./emitter.js";
import { EventStream, type Lagged, type Snapshot } from "./events.js";
import type {
  ConnectResult, DisconnectResult, Event, EventDataByType, EventType, Metrics, NodeOverrides, Status,
} from "./generated/api.js";
import type { Handling, HandleOptions, RequestHandler, StreamHandler } from "./handling.js";
import { Mirror } from "./mirror.js";
import { checkedConfig, type P2PConfig } from "./p2p-config.js";
import { platform } from "./platform-default.js";
import type { Stream } from "./stream.js";

/** How long `start` and `stop` wait for handlers to be told of what they caused, in ms. */
const DELIVERED_WITHIN = 5_000;
const MODEL_SERVICE = "llm-inference/";
const CACHE_TTL = 300_000;
const MAX_CACHED = 1_000;

export interface P2PClientOptions extends ConnectOptions {
  /**
   * The node is others' too: it is never stopped or configured from here. The bootstrap nodes are kept for as long as
   * this client lives; a node that is stopped is started, as the daemon is configured.
   */
  shared?: boolean | undefined;
  /** Where the node runs with another configuration, restart it with this one (the default), or reject. */
  restart?: boolean | undefined;
}

/** What the SDK counts is always there; the rest of the daemon's metrics once they were told. */
export type P2PMetrics = Partial<Metrics> & Pick<
  Metrics,
  | "connected" | "peerId" | "connections" | "totalPeers" | "connectedPeers" | "listenAddresses" | "bootstrapNodes"
  | "failedConnections" | "successfulConnections" | "inboundConnections" | "outboundConnections" | "retries"
>;

export interface P2PStatus {
  connected: boolean;
  bootstrapNodes: string[];
  peerId?: string;
  connections: number;
  peers: number;
  listenAddresses: string[];
  startTime?: number;
  uptime?: number;
}

export interface NodeCapabilities {
  models: string[];
  maxTokens?: number;
  pricePerToken?: string;
  [other: string]: unknown;
}

/** A node that was found, as the SDK shows it. */
export interface DiscoveredNode {
  peerId: string;
  multiaddrs: string[];
  capabilities: NodeCapabilities;
  latency?: number;
  reputation?: number;
  lastSeen: number;
}

/** Of an `error` event: the first failed dial of a bootstrap node, or that the daemon was lost. */
export interface P2PFailure {
  type: string;
  message: string;
  [detail: string]: unknown;
}

/** `peer:connect` and `peer:disconnect` hand the bare peer id, as in the SDK; the others what the daemon tells. */
export type P2PEvents = {
  [T in Exclude<EventType, "peer:connect" | "peer:disconnect" | "error">]: [data: EventDataByType[T]];
} & {
  "peer:connect": [peerId: string];
  "peer:disconnect": [peerId: string];
  error: [failure: P2PFailure];
  lagged: [gap: Lagged];
};

interface Running {
  readonly client: Client;
  readonly events: EventStream;
  /** Resolves when nothing is delivered any more. */
  over: Promise<void>;
}

/**
 * The daemon's node under the SDK's names. Whatever has to ask is a promise; the getters answer at once, out of what the
 * subscription told. From `start` to `stop` it keeps the process alive, as a libp2p node does.
 */
export class P2PClient extends Emitter<P2PEvents> {
  /** What was given, frozen. */
  readonly config: Readonly<P2PConfig>;
  readonly #options: P2PClientOptions;
  readonly #mirror = new Mirror();
  readonly #cache = new Map<string, DiscoveredNode>();
  readonly #undelivered: { epoch: string; seq: number; resolve(): void }[] = [];
  #running: Running | undefined;
  #changing: Promise<unknown> = Promise.resolve();
  #epoch = "";
  #seq = 0;

  constructor(config: P2PConfig = {}, options: P2PClientOptions = {}) {
    super();
    this.config = checkedConfig(config);
    this.#options = { ...options };
  }

  /**
   * Start the node, and follow its events; does nothing where it is started. Does not wait for any dial. When it
   * resolves, handlers were told of everything up to the start.
   */
  start(): Promise<void> {
    return this.#exclusively(async () => {
      if (this.isStarted()) return;
      const running = (this.#running ??= await this.#follow());
      try {
        const status = await this.#startNode(running);
        await this.#mirror.refresh(running.client);
        await this.#delivered(status);
      } catch (error) {
        await this.#end();
        throw error;
      }
    });
  }

  /**
   * Stop the node, and follow its events no more; with `shared`, only the latter. Does nothing without a `start`. When it
   * resolves, handlers were told of everything up to the stop.
   */
  stop(): Promise<void> {
    return this.#exclusively(async () => {
      const running = this.#running;
      if (running === undefined) return;
      try {
        if (this.#options.shared !== true) await this.#delivered(await running.client.stop());
      } catch (error) {
        // A daemon that is gone has no node to stop.
        if (!hasCode(error, "DAEMON_UNREACHABLE") && !hasCode(error, "CONNECTION_LOST")) throw error;
      } finally {
        await this.#end();
      }
    });
  }

  /** Whether the node is started, by what was last told; false while the daemon is gone. */
  isStarted(): boolean {
    return this.#running !== undefined && this.#mirror.started;
  }

  getStatus(): "started" | "stopped" {
    return this.isStarted() ? "started" : "stopped";
  }

  getPeerId(): string | undefined {
    return this.#mirror.peerId;
  }

  getDetailedStatus(): P2PStatus {
    const { connected, bootstrapNodes, peerId, connections, totalPeers, listenAddresses, startTime, uptime } =
      this.getP2PMetrics();
    return {
      connected, bootstrapNodes, connections, peers: totalPeers, listenAddresses,
      ...(peerId === "" ? {} : { peerId }),
      ...(startTime === undefined ? {} : { startTime }),
      ...(uptime === undefined ? {} : { uptime }),
    };
  }

  getConnectedPeers(): string[] {
    return this.getP2PMetrics().connectedPeers;
  }

  getListenAddresses(): string[] {
    return this.getP2PMetrics().listenAddresses;
  }

  getP2PMetrics(): P2PMetrics {
    const known = this.#mirror.metrics;
    if (known === undefined) return { ...NOTHING_KNOWN, bootstrapNodes: [...(this.config.bootstrapNodes ?? [])] };
    if (this.#running !== undefined) return known;
    return { ...known, connected: false, connections: 0, totalPeers: 0, connectedPeers: [], listenAddresses: [] };
  }

  /** The protocols that the node answers. */
  getRegisteredProtocols(): string[] {
    return this.#mirror.protocols;
  }

  // ---- Peers

  /** Connect to a multiaddr with `/p2p/`, or to a peer whose addresses are known. */
  async connect(address: string, timeout?: number): Promise<ConnectResult> {
    return this.#refreshed(await this.client.connect(address, timeout));
  }

  async disconnect(peerId: string): Promise<DisconnectResult> {
    return this.#refreshed(await this.client.disconnect(peerId));
  }

  /** The client underneath, for everything else. Throws where this one was not started. */
  get client(): Client {
    if (this.#running === undefined) throw new InvalidConfig("the P2P client is not started; call start() first");
    return this.#running.client;
  }

  openStream(peerId: string, protocol: string | readonly string[], options?: OpenStreamOptions): Promise<Stream> {
    return this.client.openStream(peerId, protocol, options);
  }

  /** As `Client.handle`; `getRegisteredProtocols` then has it. */
  async handle(protocol: string, handler: StreamHandler, options?: HandleOptions): Promise<Handling> {
    const handling = await this.client.handle(protocol, handler as StreamHandler & RequestHandler, options as never);
    return this.#refreshed(handling);
  }

  // ---- Discovery

  /**
   * Nodes that provide a service, `llm-inference/<model>` for those that serve a model. None where there are none, the
   * DHT is off or the time is over.
   */
  async findProviders(service: string, options: { timeout?: number } = {}): Promise<DiscoveredNode[]> {
    if (!this.isStarted()) return [];
    try {
      return service.startsWith(MODEL_SERVICE)
        ? await this.discover({ modelId: service.slice(MODEL_SERVICE.length) }, options.timeout)
        : await this.#providers(service, options.timeout);
    } catch (error) {
      if (isFabstirError(error)) return [];
      throw error;
    }
  }

  /** Nodes that serve a model, filtered and in order. */
  async discover(options: NodeDiscoveryOptions, timeout?: number): Promise<DiscoveredNode[]> {
    const { modelId, maxPrice, maxLatency, minReputation, preferredNodes, excludeNodes, forceRefresh } = options;
    const filters = {
      maxPrice, maxLatency, minReputation,
      preferredNodes: preferredNodes && [...preferredNodes],
      excludeNodes: excludeNodes && [...excludeNodes],
    };
    const found = await this.client.fabstir.discover(modelId, filters, forceRefresh, timeout);
    return found.nodes.map((node) =>
      this.#cached({
        peerId: node.peerId,
        multiaddrs: node.addresses,
        capabilities: {
          ...node.metadata,
          models: node.models,
          ...(node.pricePerToken === undefined ? {} : { pricePerToken: node.pricePerToken }),
        },
        ...(node.latency === undefined ? {} : { latency: node.latency }),
        ...(node.reputation === undefined ? {} : { reputation: node.reputation }),
        lastSeen: Date.now(),
      }),
    );
  }

  /** What a node says of itself in the DHT; null where it says nothing, or nothing that can be read. */
  async getNodeInfo(peerId: string): Promise<DiscoveredNode | null> {
    const cached = this.getCachedNodes().find((node) => node.peerId === peerId);
    if (cached !== undefined || !this.isStarted()) return cached ?? null;
    try {
      const { value } = await this.client.dht.getValue(`metadata:${peerId}`);
      if (value === undefined) return null;
      const told = record(JSON.parse(new TextDecoder().decode(fromBase64(value))));
      const models = Array.isArray(told["models"]) ? told["models"].filter((one) => typeof one === "string") : [];
      const { addresses } = await this.client.dht.findPeer(peerId);
      return this.#cached({ peerId, multiaddrs: addresses, capabilities: { ...told, models }, lastSeen: Date.now() });
    } catch (error) {
      if (isFabstirError(error) || error instanceof SyntaxError) return null;
      throw error;
    }
  }

  /** Nodes that were found within the last five minutes. */
  getCachedNodes(): DiscoveredNode[] {
    const oldest = Date.now() - CACHE_TTL;
    return [...this.#cache.values()].filter((node) => node.lastSeen > oldest);
  }

  // ------------------------------------------------------------------------------------------------------------------

  async #providers(service: string, timeout?: number): Promise<DiscoveredNode[]> {
    const digest = await platform.sha256(new TextEncoder().encode(service));
    const multihash = new Uint8Array([0x12, digest.length, ...digest]);
    const found = await this.client.dht.findProviders(toBase64(multihash), "base64", undefined, timeout);
    const nodes: DiscoveredNode[] = [];
    for (const { peerId, addresses } of found.providers) {
      const known = await this.getNodeInfo(peerId);
      nodes.push(known ?? { peerId, multiaddrs: addresses, capabilities: { models: [] }, lastSeen: Date.now() });
    }
    return nodes;
  }

  #cached(node: DiscoveredNode): DiscoveredNode {
    this.#cache.delete(node.peerId);
    this.#cache.set(node.peerId, node);
    const [oldest] = this.#cache.keys();
    if (this.#cache.size > MAX_CACHED && oldest !== undefined) this.#cache.delete(oldest);
    return node;
  }

  async #refreshed<R>(result: R): Promise<R> {
    if (this.#running !== undefined) await this.#mirror.refresh(this.#running.client).catch(() => {});
    return result;
  }

  /** One `start` or `stop` at a time. */
  #exclusively(act: () => Promise<void>): Promise<void> {
    const next = this.#changing.then(act);
    this.#changing = next.catch(() => {});
    return next;
  }

  async #startNode({ client, events }: Running): Promise<Status> {
    if (this.#options.shared === true) return this.#attach(client, await events.ready());
    const config = { ...this.config } as NodeOverrides;
    try {
      return await client.start(config);
    } catch (error) {
      if (this.#options.restart === false || !hasCode(error, "INVALID_STATE")) throw error;
    }
    await client.stop();
    return client.start(config);
  }

  /** Start the node where nobody has, and have our bootstrap nodes kept, on this connection and those that follow. */
  async #attach(client: Client, { status }: Snapshot): Promise<Status> {
    const started = status.connected ? status : await client.start();
    for (const address of new Set(this.config.bootstrapNodes)) await client.keep(lease(address));
    return started;
  }

  async #follow(): Promise<Running> {
    const { shared: _, restart: __, ...target } = this.#options;
    const client = new Client(target);
    const events: EventStream = new EventStream(target, {}, {
      subscribed: (snapshot) => this.#subscribed(snapshot),
      lost: (error) => {
        this.#mirror.lost();
        this.emit("error", { type: error.code, message: error.message });
      },
    });
    // A failure of the client's own, such as that of a handler, has no caller that it could be told to.
    client.on("error", (error) => void this.emit("error", failure(error)));
    try {
      await events.ready();
      await client.open();
    } catch (error) {
      events.close();
      await client.close();
      throw error;
    }
    const running: Running = { client, events, over: Promise.resolve() };
    running.over = this.#deliver(running);
    return running;
  }

  /** Tells the handlers what comes. By the time that one is called the getters know of it. */
  async #deliver({ client, events }: Running): Promise<void> {
    try {
      for await (const first of events) {
        const items = [first, ...events.drain()];
        await this.#mirror.refresh(client).catch(() => {});
        for (const item of items) this.#tell(item);
      }
    } catch (error) {
      this.#mirror.lost();
      this.emit("error", failure(error));
    } finally {
      this.#release(() => true);
    }
  }

  #tell(item: Event | Lagged): void {
    if (item.type === "lagged") this.emit("lagged", item);
    else if (item.type === "peer:connect" || item.type === "peer:disconnect") this.emit(item.type, item.data.peerId);
    else (this.emit as (type: string, data: unknown) => boolean).call(this, item.type, item.data);
    if (item.type === "lagged") this.#seq = item.resume - 1;
    else [this.#epoch, this.#seq] = [item.epoch, item.seq];
    this.#release(({ epoch, seq }) => epoch !== this.#epoch || seq <= this.#seq);
  }

  #subscribed(snapshot: Snapshot): void {
    const running = this.#running;
    const restarted = this.#epoch !== "" && snapshot.epoch !== this.#epoch;
    if (snapshot.epoch !== this.#epoch) {
      // The first time, what came before is not ours to tell; later, a new run begins at its beginning.
      this.#seq = restarted ? 0 : snapshot.head;
      this.#epoch = snapshot.epoch;
    }
    if (running !== undefined) void this.#takeUp(running, restarted);
  }

  /** After a lost connection: the daemon may be another run, in which nobody has started the node as we had it. */
  async #takeUp(running: Running, restarted: boolean): Promise<void> {
    try {
      if (restarted && this.#options.shared !== true) await this.#startNode(running);
      await this.#mirror.refresh(running.client);
    } catch (error) {
      if (this.#running === running) this.emit("error", failure(error));
    }
  }

  /** Resolves when handlers were told of everything up to `status`. */
  async #delivered(status: Status): Promise<void> {
    if (status.epoch !== this.#epoch || status.head <= this.#seq) return;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, DELIVERED_WITHIN);
      this.#undelivered.push({
        epoch: status.epoch,
        seq: status.head,
        resolve: () => {
          clearTimeout(timer);
          resolve();
        },
      });
    });
  }

  #release(done: (one: { epoch: string; seq: number }) => boolean): void {
    for (const one of this.#undelivered.filter(done)) {
      this.#undelivered.splice(this.#undelivered.indexOf(one), 1);
      one.resolve();
    }
  }

  async #end(): Promise<void> {
    const running = this.#running;
    this.#running = undefined;
    this.#epoch = "";
    this.#cache.clear();
    if (running === undefined) return;
    running.events.close();
    await running.client.close();
    await running.over;
  }
}

/** What `FabstirSDK.discoverNodes` and `P2PClient.discover` look for. */
export interface NodeDiscoveryOptions {
  modelId: string;
  maxLatency?: number | undefined;
  minReputation?: number | undefined;
  maxPrice?: string | undefined;
  preferredNodes?: readonly string[] | undefined;
  excludeNodes?: readonly string[] | undefined;
  forceRefresh?: boolean | undefined;
}

/** An error as `error` events show it. */
export function failure(error: unknown): P2PFailure {
  if (!isFabstirError(error)) return { type: "ERROR", message: words(error) };
  return { ...error.data, type: error.code, message: error.message };
}

function lease(address: string): Restorable {
  return {
    restore: async (connection) => void (await connection.request("peer.keep", { address, lease: "connection" })),
  };
}

const NOTHING_KNOWN: P2PMetrics = {
  connected: false, peerId: "", connections: 0, totalPeers: 0, connectedPeers: [], listenAddresses: [], bootstrapNodes: [],
  failedConnections: 0, successfulConnections: 0, inboundConnections: 0, outboundConnections: 0, retries: 0,
};

