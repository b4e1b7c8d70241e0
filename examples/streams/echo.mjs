// Says hello on /echo/1.0.0 to a peer, over the Unix socket, with no package.
//
//     node echo.mjs SOCKET PEER_ID
import { connect } from "node:net"

const [path, peerId] = process.argv.slice(2)
const socket = connect({ path, allowHalfOpen: true })
const params = { peerId, protocol: "/echo/1.0.0" }
socket.write(JSON.stringify({ jsonrpc: "2.0", id: 1, method: "stream.open", params }) + "\n")
socket.end("hello\n") // ends our side only

let received = Buffer.alloc(0)
for await (const data of socket) received = Buffer.concat([received, data])
const line = received.indexOf("\n") // the answer; behind it, the stream
const answer = JSON.parse(received.subarray(0, line))
if (answer.error) throw new Error(answer.error.message)
process.stdout.write(received.subarray(line + 1))
