/** The P2P classes of the Fabstir SDK, over the daemon. */
export { P2PClient } from "./p2p-client.js";
export type {
  DiscoveredNode, NodeCapabilities, NodeDiscoveryOptions, P2PClientOptions, P2PEvents, P2PFailure, P2PMetrics,
  P2PStatus,
} from "./p2p-client.js";
export type { P2PConfig } from "./p2p-config.js";
export { FabstirSDK } from "./sdk.js";
export type { DiscoveryEvent, FabstirSDKConfig, ResolvedConfig, SDKEvents } from "./sdk.js";
