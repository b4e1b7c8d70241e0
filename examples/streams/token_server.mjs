// Answers prompts on /tokens/1.0.0 word by word, over the Unix socket, with no package.
//
//     node token_server.mjs SOCKET
import { connect } from "node:net"
import { createInterface } from "node:readline"
import { setTimeout as sleep } from "node:timers/promises"

const path = process.argv[2]
const line = (method, params) => JSON.stringify({ jsonrpc: "2.0", id: 1, method, params }) + "\n"

// The owner's connection: the answer to the call, then a line for each stream that comes, and for each that has ended
const owner = connect(path)
owner.write(line("protocol.handle", { protocol: "/tokens/1.0.0", mode: "stream" }))
for await (const text of createInterface({ input: owner })) {
  const told = JSON.parse(text)
  if (told.error) throw new Error(told.error.message)
  else if (told.id === 1) console.log("serving /tokens/1.0.0; Ctrl-C ends it")
  else if (told.method === "stream.incoming") serve(told.params).catch((error) => console.error(error.message))
  else if (told.method === "stream.closed") console.log(`${told.params.streamId}: ${told.params.outcome}`)
}

// One stream, on a connection of its own
async function serve({ streamId, peerId }) {
  const stream = connect({ path, allowHalfOpen: true }) // the peer ends its side, and we go on with ours
  stream.write(line("stream.accept", { streamId }))
  let received = Buffer.alloc(0)
  for await (const data of stream.iterator({ destroyOnReturn: false })) received = Buffer.concat([received, data])
  const end = received.indexOf("\n") // of the answer; behind it, the stream
  const answer = JSON.parse(received.subarray(0, end))
  if (answer.error) throw new Error(answer.error.message)
  const prompt = received.subarray(end + 1).toString()
  console.log(`${peerId} asks: ${prompt}`)

  stream.on("error", () => {}) // the client has had enough: `closed` is true, and `stream.closed` says why
  const words = prompt.split(" ")
  for (let number = 0; number < 1000 && !stream.closed; number++) {
    stream.write(`${words[number % words.length]}-${number}\n`)
    await sleep(10)
  }
  stream.end()
}
