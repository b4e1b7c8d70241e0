// The SDK's submitJob and createResponseStream as an adapter over a stream. usage: node job.mjs ADDRESS [MAX_TOKENS]
import { FabstirSDK } from "fabstir-client/p2p";
import { messages, send } from "./lines.mjs";

const PROTOCOL = "/example/job/1.0.0";

class Jobs {
  #streams = new Map();
  #lastId = 0;

  constructor(sdk) {
    this.sdk = sdk;
  }

  /** Offers a job to a host. Resolves with its number once the host has accepted it. */
  async submitJob(peerId, { signal, ...request }) {
    const stream = await this.sdk.p2p.openStream(peerId, PROTOCOL, { signal });
    await send(stream, { id: `job-${++this.#lastId}`, timestamp: Date.now(), ...request });
    const answers = messages(stream);
    const { value: answer } = await answers.next();
    if (answer?.status !== "accepted") {
      await stream.reset();
      throw new Error(`the host ${answer?.status ?? "left"}: ${answer?.reason ?? "no reason"}`);
    }
    this.#streams.set(this.#lastId, { stream, answers });
    return this.#lastId;
  }

  /** The tokens as they come. Leaving the loop cancels the job: the host sees a reset. */
  async *createResponseStream(jobId) {
    const { stream, answers } = this.#streams.get(jobId);
    this.#streams.delete(jobId);
    try {
      yield* answers;
    } finally {
      await (stream.readEnded ? stream.close() : stream.reset());
    }
  }
}

const [address, maxTokens = "20"] = process.argv.slice(2);
const sdk = new FabstirSDK({ mode: "production", p2pConfig: { bootstrapNodes: [address] }, daemon: { shared: true } });
const connected = new Promise((resolve) => sdk.once("p2p:peer:connect", resolve));
await sdk.connect();
const peerId = sdk.p2p.getConnectedPeers()[0] ?? (await connected);
const jobs = new Jobs(sdk);
try {
  const jobId = await jobs.submitJob(peerId, { modelId: "llama", prompt: "Hello", maxTokens: Number(maxTokens) });
  let [text, tokens] = ["", 0];
  for await (const token of jobs.createResponseStream(jobId)) {
    text += token.content;
    tokens += 1;
  }
  console.log(`${tokens} tokens, beginning with ${text.slice(0, 11)}`);
} catch (error) {
  console.log(error.message);
}
await sdk.disconnect();
