// The SDK's P2P layer as its users know it: creation, life, retries, events, metrics, discovery.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { connect, hasCode, InvalidConfig } from "fabstir-client";
import { FabstirSDK, P2PClient } from "fabstir-client/p2p";
import { Daemon, daemon, rejection, silentHost, started, until } from "./support.mjs";

const DEAD = "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWHHzSeKaY8xuZVzkLbKFfvNgPPeKhFBGrMbNzbm5akpqu";
const PLACEHOLDER = "/ip4/127.0.0.1/tcp/4001/p2p/12D3KooW...";
const LOCAL = { listenAddresses: ["/ip4/127.0.0.1/tcp/0"], enableMDNS: false };

describe("over one daemon", () => {
  const running = new Daemon({ "node.auto_start": false });
  const peer = new Daemon();
  let peerAddress;
  let peerId;
  const here = () => ({ dataDir: running.dataDir });
  const p2p = (config = {}, options = {}) => new P2PClient({ ...LOCAL, ...config }, { ...here(), ...options });
  const sdk = (p2pConfig) => new FabstirSDK({ mode: "production", p2pConfig: { ...LOCAL, ...p2pConfig }, daemon: here() });

  before(async () => {
    await Promise.all([running.start(), peer.start()]);
    const client = await started(await connect({ dataDir: peer.dataDir }));
    ({ peerId, listenAddresses: [peerAddress] } = await client.status());
    await client.close();
  });
  after(() => Promise.all([running.remove(), peer.remove()]));

  describe("P2PClient", () => {
    test("has the getters at once, before it was ever started", () => {
      const client = p2p({ bootstrapNodes: [PLACEHOLDER] });
      assert.equal(client.isStarted(), false);
      assert.equal(client.getStatus(), "stopped");
      assert.equal(client.getPeerId(), undefined);
      assert.deepEqual(client.getConnectedPeers(), []);
      assert.deepEqual(client.getListenAddresses(), []);
      assert.deepEqual(client.getRegisteredProtocols(), []);
      assert.deepEqual(client.getCachedNodes(), []);
      assert.deepEqual(client.getDetailedStatus(), {
        connected: false, bootstrapNodes: [PLACEHOLDER], connections: 0, peers: 0, listenAddresses: [],
      });
      assert.equal(client.getP2PMetrics().failedConnections, 0);
      assert.throws(() => new P2PClient({ bootstrapNode: [] }), InvalidConfig);
      assert.throws(() => new P2PClient({ dialTimeout: "5" }), InvalidConfig);
    });

    test("starts, starts again, stops, stops again", async () => {
      const client = p2p({ bootstrapNodes: [PLACEHOLDER] });
      const told = [];
      for (const name of ["p2p:started", "p2p:stopped"]) client.on(name, () => told.push([name, client.isStarted()]));
      await client.stop();
      assert.ok(client.start() instanceof Promise);
      await client.start();
      assert.equal(client.getStatus(), "started");
      assert.match(client.getPeerId(), /^12D3KooW/);
      assert.match(client.getListenAddresses()[0], /^\/ip4\/127\.0\.0\.1\/tcp\/\d+\/p2p\/12D3KooW/);
      assert.ok(client.getRegisteredProtocols().includes("/ipfs/ping/1.0.0"));
      const { connected, connections, startTime, uptime } = client.getDetailedStatus();
      assert.deepEqual([connected, connections, typeof startTime], [true, 0, "number"]);
      assert.ok(uptime >= 0 && uptime < 60_000);
      await client.stop();
      assert.equal(client.isStarted(), false);
      assert.deepEqual(client.getListenAddresses(), []);
      assert.deepEqual(told, [["p2p:started", true], ["p2p:stopped", false]]);
      await client.stop();
    });

    test("tells a dead bootstrap node: error, retries with backoff, failure, metrics", async () => {
      const client = p2p({ bootstrapNodes: [DEAD], dialTimeout: 5000, maxRetries: 3, retryDelay: 20 });
      const [errors, retries, failures] = [[], [], []];
      client.on("error", (one) => errors.push(one));
      client.on("connection:retry", (one) => retries.push(one));
      client.on("connection:failed", (one) => failures.push(one));
      await client.start();
      const before = client.getP2PMetrics();
      await until(() => failures.length > 0);
      assert.equal(errors.length, 1);
      assert.equal(errors[0].type, "BOOTSTRAP_CONNECTION_FAILED");
      assert.equal(errors[0].address, DEAD);
      assert.deepEqual(retries.map(({ attempt, delay, maxRetries }) => [attempt, delay, maxRetries]), [[1, 20, 3], [2, 40, 3], [3, 80, 3]]);
      assert.equal(failures[0].reason, "Max retries exceeded");
      assert.equal(failures[0].attempts, 4);
      assert.ok(client.getP2PMetrics().failedConnections >= 4 && client.getP2PMetrics().failedConnections > before.failedConnections - 4);
      assert.ok(client.isStarted());
      await client.stop();
    });

    test("a stop cuts off what is being dialled", async (t) => {
      const { port } = await silentHost(t);
      const address = `/ip4/127.0.0.1/tcp/${port}/p2p/12D3KooWHHzSeKaY8xuZVzkLbKFfvNgPPeKhFBGrMbNzbm5akpqu`;
      const client = p2p({ bootstrapNodes: [address], dialTimeout: 60_000 });
      const cancelled = [];
      client.on("connection:cancelled", (one) => cancelled.push(one.address));
      await client.start();
      await client.stop();
      assert.deepEqual(cancelled, [address]);
    });

    test("peers come and go, as bare ids; the getters know of it by then", async () => {
      const client = p2p({ bootstrapNodes: [peerAddress] });
      const told = [];
      client.on("peer:connect", (id) => told.push([id, client.getConnectedPeers()]));
      client.on("peer:disconnect", (id) => told.push([id, client.getConnectedPeers()]));
      await client.start();
      await until(() => told.length === 1);
      assert.deepEqual(told[0], [peerId, [peerId]]);
      assert.equal(client.getDetailedStatus().connections, 1);
      assert.ok(client.getP2PMetrics().successfulConnections >= 1);
      assert.equal((await client.connect(peerAddress)).alreadyConnected, true);
      assert.equal((await client.disconnect(peerId)).closed, 1);
      await until(() => told.length === 2);
      assert.deepEqual(told[1], [peerId, []]);
      await client.stop();
    });

    test("a node that runs otherwise is restarted, or is left alone on request", async () => {
      const first = p2p({ bootstrapNodes: [DEAD] });
      await first.start();
      const error = await rejection(p2p({ dialTimeout: 1234 }, { restart: false }).start());
      assert.ok(hasCode(error, "INVALID_STATE"), error);
      assert.ok(first.isStarted());
      const second = p2p({ dialTimeout: 1234 });
      await second.start();
      assert.deepEqual(second.getP2PMetrics().bootstrapNodes, []);
      await second.stop();
      await until(() => !first.isStarted());
      await first.stop();
    });

    test("discovery without a DHT finds nothing, and throws nothing", async () => {
      const client = p2p({ enableDHT: false });
      assert.deepEqual(await client.findProviders("llm-inference/x"), []);
      await client.start();
      for (const service of ["llm-inference", "llm-inference/llama"]) {
        assert.deepEqual(await client.findProviders(service, { timeout: 500 }), []);
      }
      assert.equal(await client.getNodeInfo("12D3KooWInvalidData"), null);
      assert.deepEqual(client.getCachedNodes(), []);
      await client.stop();
    });

    test("a handler may stop it", async () => {
      const client = p2p({ bootstrapNodes: [DEAD], maxRetries: 0 });
      const stopped = new Promise((resolve) => client.once("connection:failed", () => client.stop().then(resolve)));
      await client.start();
      await stopped;
      assert.equal(client.getStatus(), "stopped");
    });
  });

  describe("FabstirSDK", () => {
    test("checks its configuration in the SDK's words, and freezes it", () => {
      const wrong = (config, message) => assert.throws(() => new FabstirSDK(config), { message });
      wrong({ mode: "nonsense" }, 'Invalid SDK mode: nonsense. Must be "mock" or "production"');
      wrong({ mode: "production" }, "P2P configuration required for production mode");
      wrong({ mode: "production", p2pConfig: {} }, "P2P configuration must include bootstrapNodes array");
      wrong({ mode: "production", p2pConfig: { bootstrapNodes: [] } }, "At least one bootstrap node required for production mode");
      wrong({ mode: "production", p2pConfig: { bootstrapNodes: [7] } }, "Bootstrap nodes must be strings");
      wrong({ mode: "production", p2pConfig: { bootstrapNodes: [DEAD], enableDHT: "yes" } }, "enableDHT must be a boolean");
      wrong({ mode: "production", p2pConfig: { bootstrapNodes: [DEAD], dialTimeout: -1 } }, "dialTimeout must be a positive number");
      const { config } = sdk({ bootstrapNodes: [PLACEHOLDER] });
      assert.equal(config.p2pConfig.dialTimeout, 30_000);
      assert.throws(() => config.p2pConfig.bootstrapNodes.push("x"), TypeError);
      assert.throws(() => ((config.p2pConfig.enableDHT = false)), TypeError);
      assert.equal(new FabstirSDK().config.mode, "mock");
    });

    test("in mock mode has no P2P", async () => {
      const mock = new FabstirSDK({ mode: "mock" });
      await mock.connect({});
      assert.deepEqual([mock.isP2PEnabled(), mock.isP2PConnected(), mock.getP2PStatus(), mock.getP2PMetrics()], [false, false, "disabled", null]);
      await assert.rejects(mock.discoverNodes({ modelId: "x" }), /Node discovery not available in mock mode/);
      await mock.disconnect();
      assert.equal(mock.isConnected, false);
    });

    test("connects and disconnects, with its events", async () => {
      const one = sdk({ bootstrapNodes: [peerAddress] });
      const told = [];
      for (const name of ["connected", "p2p:started", "p2p:peer:connect", "p2p:stopped", "disconnected"]) {
        one.on(name, (data) => told.push([name, typeof data]));
      }
      assert.equal(one.getP2PStatus(), "disabled");
      await one.connect();
      assert.deepEqual([one.isConnected, one.isP2PConnected(), one.getP2PStatus()], [true, true, "connected"]);
      await until(() => told.some(([name]) => name === "p2p:peer:connect"));
      const { connected, peerId: own, connections, bootstrapNodes, uptime } = one.getP2PMetrics();
      assert.deepEqual([connected, typeof own, connections, bootstrapNodes, typeof uptime], [true, "string", 1, [peerAddress], "number"]);
      await one.disconnect();
      assert.equal(one.getP2PStatus(), "disconnected");
      assert.equal(one.getP2PMetrics(), null);
      const names = told.map(([name]) => name);
      assert.equal(names[0], "p2p:started");
      for (const name of ["connected", "p2p:peer:connect", "p2p:stopped"]) assert.ok(names.includes(name), name);
      assert.equal(names.at(-1), "disconnected");
      assert.ok(told.some(([name, kind]) => name === "p2p:peer:connect" && kind === "string"));
      await one.connect();
      assert.equal(one.isP2PConnected(), true);
      await one.disconnect();
    });

    test("is not broken by P2P: a dead bootstrap node, a configuration that the daemon refuses, no daemon", async () => {
      for (const [config, options, type] of [
        [{ bootstrapNodes: [DEAD], retryDelay: 10 }, here(), "BOOTSTRAP_CONNECTION_FAILED"],
        [{ bootstrapNodes: ["invalid-bootstrap-node"] }, here(), "INVALID_PARAMS"],
        [{ bootstrapNodes: [DEAD] }, { api: "ipc:/nonexistent" }, "DAEMON_UNREACHABLE"],
      ]) {
        const one = new FabstirSDK({ mode: "production", p2pConfig: { ...LOCAL, ...config }, daemon: options });
        const errors = [];
        one.on("error", (error) => errors.push(error));
        await one.connect();
        assert.equal(one.isConnected, true);
        await until(() => errors.length > 0);
        assert.equal(errors[0].type, "P2P_ERROR");
        assert.equal(errors[0].error.type, type);
        await one.disconnect();
      }
    });

    test("discovers, with events, and throws where it cannot", async () => {
      const one = sdk({ bootstrapNodes: [DEAD], enableDHT: false });
      await assert.rejects(one.discoverNodes({ modelId: "x" }), /P2P client not initialized/);
      await one.connect();
      const told = [];
      for (const name of ["discovery:start", "discovery:complete"]) one.on(name, (event) => told.push([event.type, event.nodesFound]));
      assert.ok(hasCode(await rejection(one.discoverNodes({ modelId: "llama" })), "FEATURE_DISABLED"));
      assert.deepEqual(told, [["discovery:start", undefined], ["discovery:complete", 0]]);
      await one.disconnect();
    });
  });
});

test("a daemon that is killed: told as error, and the node is started again as it was", async (t) => {
  const running = await daemon(t, { "node.auto_start": false });
  const client = new P2PClient({ ...LOCAL, bootstrapNodes: [DEAD], retryDelay: 10 }, { dataDir: running.dataDir });
  const errors = [];
  client.on("error", ({ type }) => errors.push(type));
  await client.start();
  await until(() => errors.includes("BOOTSTRAP_CONNECTION_FAILED"));
  await running.kill();
  await until(() => errors.includes("CONNECTION_LOST"));
  assert.equal(client.isStarted(), false);
  assert.deepEqual(client.getListenAddresses(), []);
  await running.start();
  await until(() => client.isStarted());
  assert.deepEqual(client.getP2PMetrics().bootstrapNodes, [DEAD]);
  await running.kill();
  await until(() => !client.isStarted());
  await client.stop(); // nothing is left to stop, and that is no error
});

test("a shared node is left as it is: two applications, and the daemon killed in between", async (t) => {
  const running = await daemon(t);
  const watcher = await started(await connect({ dataDir: running.dataDir }));
  const dials = async () => (await watcher.dials()).map(({ address }) => address);
  const options = { dataDir: running.dataDir, shared: true };
  const one = new P2PClient({ bootstrapNodes: [DEAD], dialTimeout: 77 }, options);
  const other = new FabstirSDK({ mode: "production", p2pConfig: { bootstrapNodes: [DEAD] }, daemon: options });
  const { startTime } = await watcher.status();
  await Promise.all([one.start(), other.connect()]);
  assert.ok(one.isStarted() && other.isP2PConnected());
  assert.deepEqual(await dials(), [DEAD]);
  const stopped = [];
  other.on("p2p:stopped", ({ peerId }) => stopped.push(peerId));
  await other.disconnect();
  assert.deepEqual([stopped, other.getP2PStatus()], [[one.getPeerId()], "disconnected"]);
  assert.deepEqual(await dials(), [DEAD]); // the other application is still there
  await running.kill();
  await running.start();
  await until(async () => (await dials().catch(() => [])).length === 1); // leased again
  await until(() => one.isStarted());
  await one.stop();
  await until(async () => (await dials()).length === 0);
  const status = await watcher.status();
  assert.deepEqual([status.state, status.bootstrapNodes], ["started", []]);
  assert.ok(status.startTime > startTime);
  await watcher.stop();
  const third = new P2PClient({}, options);
  await third.start(); // one that is stopped may be started
  assert.equal((await watcher.status()).state, "started");
  await third.stop();
  await watcher.close();
});

test("nodes that serve a model are found over the DHT", async (t) => {
  const settings = { "node.enable_dht": true, "dht.mode": "server" };
  const [here, there] = await Promise.all([daemon(t, settings), daemon(t, settings)]);
  const host = await started(await connect({ dataDir: there.dataDir }));
  const { peerId, listenAddresses: [address] } = await host.status();
  const one = new FabstirSDK({
    mode: "production", p2pConfig: { listenAddresses: ["/ip4/127.0.0.1/tcp/0"], bootstrapNodes: [address] }, daemon: { dataDir: here.dataDir },
  });
  await one.connect();
  await until(() => one.p2p.getConnectedPeers().includes(peerId));
  await until(async () => (await host.peers())[0]?.agentVersion);
  await host.fabstir.announce(["llama"], { models: ["llama"], maxTokens: 4096, pricePerToken: "7" });
  const [node] = await until(async () => {
    const found = await one.discoverNodes({ modelId: "llama", forceRefresh: true });
    return found.length > 0 && found;
  });
  assert.equal(node.peerId, peerId);
  assert.deepEqual(node.capabilities.models, ["llama"]);
  assert.equal(node.capabilities.pricePerToken, "7");
  assert.deepEqual((await one.p2p.findProviders("llm-inference/llama")).map((found) => found.peerId), [peerId]);
  assert.equal((await one.p2p.getNodeInfo(peerId)).peerId, peerId);
  assert.equal(one.p2p.getCachedNodes().length, 1);
  await one.disconnect();
  assert.equal(one.p2p.getCachedNodes().length, 0);
  await host.close();
});
