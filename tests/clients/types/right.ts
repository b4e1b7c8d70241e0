// Must compile in every kind of project: what a user writes.
import {
  connect, Client, hasCode, isFabstirError, type DialFailedData, type Event, type EventOf, type Lagged, type Method, type Peer,
  type Status, type Stream,
} from "fabstir-client";
import { FabstirSDK, P2PClient, type DiscoveredNode } from "fabstir-client/p2p";
import { P2PBridgeClient, type P2PMessage } from "fabstir-client/bridge";

export async function calls(): Promise<void> {
  const client: Client = await connect({ api: "ipc:/run/fabstird/api.sock" });
  const status: Status = await client.status();
  const state: "started" | "starting" | "stopped" | "stopping" | "failed" = status.state;
  const peers: Peer[] = await client.peers();
  const started: number | undefined = status.startTime;
  const { alreadyConnected }: { alreadyConnected: boolean } = await client.connect("/dns4/x/tcp/1", 5000);
  const same: Status = await client.start({ bootstrapNodes: ["/ip4/127.0.0.1/tcp/1"], enableDHT: false });
  await client.call("connect", { address: "x", timeout: 5 });
  await client.call("connect", ["x", 5], { timeout: 10_000, signal: new AbortController().signal });
  await client.dht.findProviders("key", "text");
  const methods: Method[] = ["status", "peer.keep"];
  console.log(state, peers, started, alreadyConnected, same, methods);
  await client.close();
}

export async function events(client: Client): Promise<void> {
  for await (const item of client.events({ types: ["peer:connect", "peer:disconnect"], after: 3, epoch: "e" })) {
    if (item.type === "lagged") {
      const missed: number | null = item.missed;
      console.log(missed, item.resume);
    } else if (item.type === "peer:disconnect") {
      const reason: string = item.data.reason;
      console.log(reason, item.seq);
    } else {
      const direction: "inbound" | "outbound" = item.data.direction;
      console.log(direction);
    }
  }
  const all: AsyncIterable<Event | Lagged> = client.events();
  const retry: EventOf<"connection:retry"> | undefined = undefined;
  console.log(all, retry);
}

export async function errors(client: Client): Promise<void> {
  try {
    await client.peers();
  } catch (error) {
    if (hasCode(error, "DIAL_FAILED")) {
      const data: Readonly<DialFailedData> = error.data;
      console.log(data.errors["x"]?.length);
    }
    if (isFabstirError(error)) {
      switch (error.code) {
        case "CONNECTION_LOST":
          console.log(error.data.carriedOut === "unknown", error.retryable);
          break;
        case "INVALID_PARAMS":
          console.log(error.data.param, error.data.mistakes);
      }
    }
  }
}

export async function streams(client: Client): Promise<Uint8Array[]> {
  const stream: Stream = await client.openStream("12D3KooW", ["/a/2", "/a/1"], { signal: new AbortController().signal });
  await stream.write("text");
  await stream.end(new Uint8Array(3));
  const chunks: Uint8Array[] = [];
  for await (const chunk of stream) chunks.push(chunk);
  await client.handle("/a/1", async (incoming) => {
    const first: Uint8Array | null = await incoming.read();
    await incoming.end(first ?? "");
  });
  await client.handle("/a/2", (request) => request.data, { mode: "message", framing: "u32be" });
  const answer: Uint8Array = (await client.request("12D3KooW", "/a/2", "text", { timeout: 5 })).data;
  return [...chunks, answer];
}

export async function sdk(): Promise<void> {
  const client = new P2PClient({ bootstrapNodes: ["/ip4/127.0.0.1/tcp/1"] }, { shared: true });
  client.on("peer:connect", (peerId) => console.log(peerId.length)).on("connection:retry", ({ attempt, delay }) => attempt + delay);
  await client.start();
  const [ids, state, id]: [string[], "started" | "stopped", string | undefined] =
    [client.getConnectedPeers(), client.getStatus(), client.getPeerId()];
  const sdk = new FabstirSDK({ mode: "production", p2pConfig: { bootstrapNodes: [] }, daemon: { shared: true } });
  sdk.on("p2p:peer:connect", (peerId) => console.log(peerId.length));
  sdk.on("error", ({ type, error }) => console.log(type === "P2P_ERROR", error.message));
  await sdk.connect({});
  const nodes: DiscoveredNode[] = await sdk.discoverNodes({ modelId: "llama" });
  const bootstrap: string[] = sdk.config.p2pConfig!.bootstrapNodes;
  const bridge = new P2PBridgeClient();
  bridge.onMessage((message: P2PMessage) => message.type);
  console.log(ids, state, id, nodes, bootstrap);
}
