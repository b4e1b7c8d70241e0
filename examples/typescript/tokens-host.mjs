// Streams tokens to whoever opens /example/tokens/1.0.0, until they have enough. usage: node tokens-host.mjs
import { connect } from "fabstir-client";

const client = await connect();
client.on("error", (error) => console.error(`a stream ended: ${error.message}`));
await client.handle("/example/tokens/1.0.0", async (stream) => {
  for (let index = 0; ; index += 1) await stream.write(`token ${index}\n`); // no faster than the peer reads
});
console.log((await client.start()).listenAddresses[0]); // returns once the node listens
