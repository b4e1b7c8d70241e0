/** What is known of the node without asking: what the newest answers said, refreshed by what events tell. */
import type { Client } from "./client.js";
import { hasCode } from "./errors.js";
import type { Metrics } from "./generated/api.js";

export class Mirror {
  #metrics: Metrics | undefined;
  #protocols: readonly string[] = [];
  #at = 0;
  #lost = false;

  /** Ask the daemon. Rejects as calls do, and then counts the daemon as gone. */
  async refresh(client: Client): Promise<void> {
    try {
      const [metrics, { protocols }] = await Promise.all([client.metrics(), client.version()]);
      this.#metrics = metrics;
      this.#protocols = protocols;
      this.#at = performance.now();
      this.#lost = false;
    } catch (error) {
      if (!hasCode(error, "FORBIDDEN")) this.lost();
      throw error;
    }
  }

  /** The daemon is gone, and with it the node. */
  lost(): void {
    this.#lost = true;
  }

  /** Whether the node is started. */
  get started(): boolean {
    return !this.#lost && this.#metrics?.connected === true;
  }

  get peerId(): string | undefined {
    return this.#metrics?.peerId;
  }

  get protocols(): string[] {
    return [...this.#protocols];
  }

  /** Counters as they were last told, and everything that needs a started node empty where it is not. */
  get metrics(): Metrics | undefined {
    const known = this.#metrics;
    if (known === undefined) return undefined;
    if (!this.started) {
      const { startTime: _, uptime: __, ...rest } = known;
      return { ...rest, connected: false, connections: 0, totalPeers: 0, connectedPeers: [], listenAddresses: [] };
    }
    const uptime = known.uptime === undefined ? {} : { uptime: known.uptime + Math.round(performance.now() - this.#at) };
    return {
      ...known, ...uptime,
      connectedPeers: [...known.connectedPeers],
      listenAddresses: [...known.listenAddresses],
      bootstrapNodes: [...known.bootstrapNodes],
    };
  }
}
