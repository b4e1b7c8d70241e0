/** `FabstirSDK`: the P2P half of the Fabstir SDK's class of that name. */
import { FabstirError, InvalidConfig, words } from "./errors.js";
import { Emitter } from "./emitter.js";
import { EVENT_TYPES, type EventDataByType, type EventType, type NodeStarted } from "./generated/api.js";
import {
  failure, P2PClient, type DiscoveredNode, type NodeDiscoveryOptions, type P2PClientOptions, type P2PEvents,
  type P2PFailure, type P2PMetrics,
} from "./p2p-client.js";
import type { P2PConfig } from "./p2p-config.js";

export interface FabstirSDKConfig {
  /** In `mock`, the default, P2P is disabled. */
  mode?: "mock" | "production" | undefined;
  /** Needed in `production`. */
  p2pConfig?: P2PConfig | undefined;
  /** Where the daemon is, and whether its node is others' too. */
  daemon?: P2PClientOptions | undefined;
  nodeDiscovery?: { discoveryTimeout?: number | undefined; [other: string]: unknown } | undefined;
  /** Whatever else the SDK's configuration has; it is not looked at. */
  [other: string]: unknown;
}

/** With the defaults of the SDK filled in. What the daemon is told is only what was given. */
export interface ResolvedConfig extends FabstirSDKConfig {
  mode: "mock" | "production";
  p2pConfig?: (P2PConfig & { bootstrapNodes: string[] }) | undefined;
}

export interface DiscoveryEvent {
  type: "discovery:start" | "discovery:complete";
  modelId: string;
  timestamp: number;
  nodesFound?: number;
  error?: string;
}

type Forwarded = {
  [T in keyof P2PEvents as T extends `p2p:${string}` ? never : T extends string ? `p2p:${T}` : never]: P2PEvents[T];
};

/** Every event of the P2P client as `p2p:<event>`, and the SDK's own. */
export interface SDKEvents extends Forwarded {
  "p2p:started": [data: NodeStarted];
  "p2p:stopped": [data: EventDataByType["p2p:stopped"]];
  connected: [data: { provider?: unknown }];
  disconnected: [];
  error: [data: { type: "P2P_ERROR"; error: P2PFailure }];
  "discovery:start": [event: DiscoveryEvent];
  "discovery:complete": [event: DiscoveryEvent];
}

const DEFAULTS = { enableDHT: true, enableMDNS: true, dialTimeout: 30_000, requestTimeout: 60_000 };

/**
 * `connect` and `disconnect` never fail over P2P: each failure is an `error` event `{type: "P2P_ERROR", error}`. Jobs,
 * contracts and wallets are not its business.
 */
export class FabstirSDK extends Emitter<SDKEvents> {
  readonly config: Readonly<ResolvedConfig>;
  readonly #options: P2PClientOptions;
  readonly #given: P2PConfig | undefined;
  _p2pClient: P2PClient | undefined;
  #isConnected = false;
  #toldStarted = false;

  /** Throws `InvalidConfig`, in the SDK's words. */
  constructor(config: FabstirSDKConfig = {}) {
    super();
    this.#options = config.daemon ?? {};
    this.#given = config.p2pConfig ?? undefined;
    this.config = checkedConfig(config);
  }

  /** Whether `connect` was called, and `disconnect` was not since. */
  get isConnected(): boolean {
    return this.#isConnected;
  }

  /** Start P2P, in production mode. When it resolves, `p2p:started` or `error` was emitted. `provider` is only told on. */
  async connect(provider?: unknown): Promise<void> {
    if (this.isP2PEnabled() && !this.isP2PConnected()) {
      try {
        await this.#startP2P((this._p2pClient ??= this.#makeClient()));
      } catch (error) {
        this.#failed(error);
      }
    }
    this.#isConnected = true;
    this.emit("connected", provider === undefined ? {} : { provider });
  }

  /** Stop P2P. When it resolves, `p2p:stopped` or `error` was emitted if it was started. */
  async disconnect(): Promise<void> {
    const client = this._p2pClient;
    const started = client?.isStarted();
    try {
      await client?.stop();
      // A shared node goes on for the others, and tells nothing.
      if (started && this.#options.shared === true) this.emit("p2p:stopped", { peerId: client?.getPeerId() ?? "" });
    } catch (error) {
      this.#failed(error);
    }
    this.#isConnected = false;
    this.emit("disconnected");
  }

  isP2PEnabled(): boolean {
    return this.config.mode === "production";
  }

  /** Whether the node is started, peers or not. */
  isP2PConnected(): boolean {
    return this._p2pClient?.isStarted() ?? false;
  }

  /** `disabled` in mock mode and before the first `connect`, as in the SDK. */
  getP2PStatus(): "disabled" | "connected" | "disconnected" {
    if (this._p2pClient === undefined) return "disabled";
    return this.isP2PConnected() ? "connected" : "disconnected";
  }

  /** Null while P2P is not connected. */
  getP2PMetrics(): P2PMetrics | null {
    return this.isP2PConnected() ? (this._p2pClient?.getP2PMetrics() ?? null) : null;
  }

  /** The P2P client, from the first `connect` on: for streams, and for a job adapter of your own. */
  get p2p(): P2PClient | undefined {
    return this._p2pClient;
  }

  /** Nodes that serve a model, filtered and in order. */
  async discoverNodes(options: NodeDiscoveryOptions): Promise<DiscoveredNode[]> {
    if (!this.isP2PEnabled()) throw new InvalidConfig("Node discovery not available in mock mode");
    const client = this._p2pClient;
    if (client === undefined || !client.isStarted()) throw new InvalidConfig("P2P client not initialized");
    const { modelId } = options;
    this.emit("discovery:start", { type: "discovery:start", modelId, timestamp: Date.now() });
    const complete = (more: { nodesFound: number; error?: string }) =>
      this.emit("discovery:complete", { type: "discovery:complete", modelId, timestamp: Date.now(), ...more });
    try {
      const nodes = await client.discover(options, this.config.nodeDiscovery?.discoveryTimeout);
      complete({ nodesFound: nodes.length });
      return nodes;
    } catch (error) {
      complete({ nodesFound: 0, error: words(error) });
      throw error;
    }
  }

  // ------------------------------------------------------------------------------------------------------------------

  async #startP2P(client: P2PClient): Promise<void> {
    this.#toldStarted = false;
    await client.start();
    if (this.#toldStarted) return; // else the node was running before us
    this.emit("p2p:started", { peerId: client.getPeerId() ?? "", listenAddresses: client.getListenAddresses() });
  }

  #makeClient(): P2PClient {
    const client = new P2PClient(this.#given, this.#options);
    const forward = (name: string, data: unknown) => {
      const forwarded = name.startsWith("p2p:") ? name : `p2p:${name}`;
      (this.emit as (name: string, data: unknown) => boolean).call(this, forwarded, data);
    };
    for (const name of FORWARDED) client.on(name, (data) => forward(name, data));
    client.on("p2p:started", () => (this.#toldStarted = true));
    client.on("error", (error) => this.#tell(error));
    return client;
  }

  #failed(error: unknown): void {
    if (!(error instanceof FabstirError)) throw error;
    this.#tell(failure(error));
  }

  #tell(error: P2PFailure): void {
    this.emit("error", { type: "P2P_ERROR", error });
  }
}

const FORWARDED: readonly (EventType | "lagged")[] = [...EVENT_TYPES, "lagged"];

/** In the words of the SDK's own checks, and frozen as there. */
function checkedConfig(config: FabstirSDKConfig): Readonly<ResolvedConfig> {
  const mode: unknown = config.mode === undefined ? "mock" : config.mode;
  if (mode !== "mock" && mode !== "production") {
    throw new InvalidConfig(`Invalid SDK mode: ${String(mode)}. Must be "mock" or "production"`, "mode");
  }
  const { p2pConfig } = config;
  if (mode === "mock") return Object.freeze({ ...config, mode }) as Readonly<ResolvedConfig>;
  if (p2pConfig === undefined || p2pConfig === null) {
    throw new InvalidConfig("P2P configuration required for production mode", "p2pConfig");
  }
  const { bootstrapNodes, listenAddresses } = p2pConfig;
  const shared = config.daemon?.shared === true;
  if (!Array.isArray(bootstrapNodes) && !(shared && bootstrapNodes === undefined)) {
    throw new InvalidConfig("P2P configuration must include bootstrapNodes array", "bootstrapNodes");
  }
  if (bootstrapNodes?.length === 0 && !shared) {
    throw new InvalidConfig("At least one bootstrap node required for production mode", "bootstrapNodes");
  }
  if (bootstrapNodes?.some((node) => typeof node !== "string")) {
    throw new InvalidConfig("Bootstrap nodes must be strings", "bootstrapNodes");
  }
  for (const name of ["enableDHT", "enableMDNS"] as const) {
    if (p2pConfig[name] !== undefined && typeof p2pConfig[name] !== "boolean") {
      throw new InvalidConfig(`${name} must be a boolean`, name);
    }
  }
  if (p2pConfig.dialTimeout !== undefined && typeof p2pConfig.dialTimeout !== "number") {
    throw new InvalidConfig("dialTimeout must be a number", "dialTimeout");
  }
  for (const name of ["dialTimeout", "requestTimeout"] as const) {
    const value: unknown = p2pConfig[name];
    if (value !== undefined && !(typeof value === "number" && value > 0)) {
      throw new InvalidConfig(`${name} must be a positive number`, name);
    }
  }
  if (listenAddresses !== undefined) {
    if (!Array.isArray(listenAddresses)) throw new InvalidConfig("listenAddresses must be an array", "listenAddresses");
    if (listenAddresses.some((one) => typeof one !== "string")) {
      throw new InvalidConfig("listenAddresses must be strings", "listenAddresses");
    }
  }
  const resolved = {
    ...DEFAULTS, ...p2pConfig,
    bootstrapNodes: Object.freeze([...(bootstrapNodes ?? [])]),
    ...(listenAddresses === undefined ? {} : { listenAddresses: Object.freeze([...listenAddresses]) }),
  };
  return Object.freeze({ ...config, mode, p2pConfig: Object.freeze(resolved) }) as Readonly<ResolvedConfig>;
}
