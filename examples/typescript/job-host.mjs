// A host: takes job offers on a protocol of its own, and streams their tokens. usage: node job-host.mjs
// (/fabstir/job/1.0.0 means something else to the Rust node.)
import { connect } from "fabstir-client";
import { messages, send } from "./lines.mjs";

const LONGEST_JOB = 10_000;
const client = await connect();
client.on("error", (error) => console.error(`a job ended: ${error.message}`));
await client.handle("/example/job/1.0.0", async (stream) => {
  for await (const offer of messages(stream)) {
    if (!(offer.maxTokens <= LONGEST_JOB)) {
      await send(stream, { requestId: offer.id, status: "rejected", reason: "unsupported_model" });
      continue;
    }
    await send(stream, { requestId: offer.id, status: "accepted", estimatedTime: 1000 });
    for (let index = 0; index < offer.maxTokens; index += 1) {
      await send(stream, { content: `word${index} `, index, timestamp: Date.now() });
    }
    return; // ends our side
  }
});
console.log((await client.start()).listenAddresses[0]); // returns once the node listens
