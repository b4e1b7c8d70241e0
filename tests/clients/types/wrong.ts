// Each marked line must not compile.
import { connect, hasCode, type Client, type EventOf } from "fabstir-client";
import { FabstirSDK, P2PClient } from "fabstir-client/p2p";

export async function mistakes(client: Client): Promise<void> {
  // @ts-expect-error no such option
  await connect({ socket: "/run/x" });
  // @ts-expect-error no such method
  await client.call("statuss");
  // @ts-expect-error no such parameter
  await client.call("connect", { adress: "x" });
  // @ts-expect-error a parameter is missing
  await client.call("connect", {});
  // @ts-expect-error of another type
  await client.call("connect", ["x", "5"]);
  // @ts-expect-error of another type
  await client.connect(7);
  // @ts-expect-error no such key
  await client.start({ bootstrap: [] });
  // @ts-expect-error no such event
  client.events({ types: ["peer:connected"] });
  for await (const item of client.events({ types: ["peer:connect"] })) {
    // @ts-expect-error no other events come
    if (item.type === "peer:disconnect") console.log(item);
    // @ts-expect-error not before it is known to be an event
    console.log(item.data);
  }
  // @ts-expect-error no such event
  type Nothing = EventOf<"peer:connected">;
  // @ts-expect-error no such code
  hasCode(new Error("x"), "DIAL_FAILURE");
  const error: unknown = new Error("x");
  // @ts-expect-error no such detail
  if (hasCode(error, "TIMEOUT")) console.log(error.data.errors);
  // @ts-expect-error the result has no such field
  console.log((await client.status()).peerID);
  // @ts-expect-error a message is answered with bytes
  await client.handle("/a/1", () => 7, { mode: "message" });
  // @ts-expect-error a stream takes bytes
  await (await client.openStream("p", "/a/1")).write({});
}

export function sdk(p2p: P2PClient, both: FabstirSDK): void {
  // @ts-expect-error no such event
  p2p.on("peer:connected", () => {});
  // @ts-expect-error the bare peer id is handed over
  p2p.on("peer:connect", (data) => data.peerId);
  // @ts-expect-error no such key
  console.log(new P2PClient({ bootstrapNode: [] }));
  // @ts-expect-error a getter answers at once
  p2p.getConnectedPeers().then(console.log);
  // @ts-expect-error no such event
  both.on("peer:connect", () => {});
  // @ts-expect-error no such mode
  console.log(new FabstirSDK({ mode: "prod" }));
}
