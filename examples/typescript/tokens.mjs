// Connects to a peer, prints events, and reads tokens until it has enough. usage: node tokens.mjs ADDRESS [COUNT]
import { connect } from "fabstir-client";

async function main(address, count = 5000) {
  const client = await connect();
  const events = client.events({ types: ["peer:connect", "peer:disconnect"] });
  const { peerId } = await client.connect(address);
  const stream = await client.openStream(peerId, "/example/tokens/1.0.0");
  let tokens = 0;
  for await (const bytes of stream) {
    tokens += Buffer.from(bytes).toString().split("\n").length - 1;
    if (tokens >= Number(count)) break; // cancels: the stream is reset
  }
  console.log(`${tokens} tokens`);
  await client.disconnect(peerId);
  for await (const event of events) {
    console.log(event.type);
    if (event.type === "peer:disconnect") break;
  }
}

await main(...process.argv.slice(2)); // and ends by itself
