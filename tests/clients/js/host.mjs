// A js-libp2p node that streams tokens without end to whoever opens /example/tokens/1.0.0. Prints its address, then a
// line for each stream that its reader has cut.
import { noise } from "@chainsafe/libp2p-noise";
import { yamux } from "@chainsafe/libp2p-yamux";
import { identify } from "@libp2p/identify";
import { tcp } from "@libp2p/tcp";
import { createLibp2p } from "libp2p";

const node = await createLibp2p({
  addresses: { listen: ["/ip4/127.0.0.1/tcp/0"] },
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: { identify: identify() },
});

async function* tokens() {
  for (let index = 0; ; index += 1) yield new TextEncoder().encode(`token ${index}\n`);
}

await node.handle("/example/tokens/1.0.0", async ({ stream }) => {
  await stream.sink(tokens()).catch((error) => console.log(`cut: ${error.name}`));
});
console.log(node.getMultiaddrs()[0].toString());
process.stdin.resume().on("end", () => process.exit(0));
