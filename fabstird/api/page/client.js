// JSON-RPC 2.0 over /ws: calls, and one subscription that goes on where it stood after the connection or the daemon
// was away.

const FIRST_DELAY = 250 // ms between two attempts to connect; doubles up to LAST_DELAY
const LAST_DELAY = 5000
const SILENCE = 45000 // ms without a heartbeat, after which the connection counts as dead
const CALL_TIMEOUT = 30000
const CONNECT_TIMEOUT = 15000 // ms for a connection to be there and the subscription answered

export class RpcError extends Error {
  constructor(error) {
    super(error.message)
    this.code = error.data?.code ?? error.code
    this.data = error.data ?? {}
  }
}

export class Client {
  // `on` has open(snapshot), event(entry), lagged(notice), closed(why) and refused(why): the token is good no more.
  constructor(token, on) {
    this.token = token
    this.on = on
    this.pending = new Map()
    this.nextId = 1
    this.cursor = null // {epoch, seq} of the last event
    this.delay = FIRST_DELAY
    this.ended = false
    this.connect()
  }

  connect() {
    const url = new URL("/ws", location.href)
    url.protocol = "ws:"
    url.searchParams.set("token", this.token)
    const socket = (this.socket = new WebSocket(url))
    socket.onopen = () => this.subscribe()
    socket.onmessage = (message) => this.receive(JSON.parse(message.data))
    socket.onclose = (event) => this.closed(socket, event)
    this.alive(CONNECT_TIMEOUT) // a daemon that hangs, or is about to end, may take the connection and never answer
  }

  async subscribe() {
    const at = this.cursor ? { after: this.cursor.seq, epoch: this.cursor.epoch } : {}
    try {
      const snapshot = await this.call("subscribe", at)
      if (this.cursor?.epoch !== snapshot.epoch) this.cursor = { epoch: snapshot.epoch, seq: snapshot.head }
      this.delay = FIRST_DELAY
      this.alive()
      this.on.open(snapshot)
    } catch (error) {
      if (error instanceof RpcError) this.on.refused(error.message)
      this.socket.close()
    }
  }

  call(method, params = {}) {
    return new Promise((resolve, reject) => {
      if (this.socket.readyState !== WebSocket.OPEN) return reject(new Error("the daemon is not connected"))
      const id = this.nextId++
      const timer = setTimeout(() => this.settle(id, (one) => one.reject(new Error(`${method} was not answered`))), CALL_TIMEOUT)
      this.pending.set(id, { resolve, reject, timer })
      this.socket.send(JSON.stringify({ jsonrpc: "2.0", id, method, params }))
    })
  }

  receive(message) {
    this.alive()
    const { method, params } = message
    if (method === "event") {
      this.cursor = { epoch: params.epoch, seq: params.seq }
      this.on.event(params)
    } else if (method === "lagged") {
      this.on.lagged(params)
    } else if (message.id != null) {
      this.settle(message.id, (one) => (message.error ? one.reject(new RpcError(message.error)) : one.resolve(message.result)))
    }
  }

  settle(id, how) {
    const one = this.pending.get(id)
    if (!one) return
    this.pending.delete(id)
    clearTimeout(one.timer)
    how(one)
  }

  alive(within = SILENCE) {
    clearTimeout(this.silence)
    this.silence = setTimeout(() => this.socket.close(), within)
  }

  closed(socket, event) {
    if (socket !== this.socket || this.ended) return
    clearTimeout(this.silence)
    for (const id of [...this.pending.keys()]) this.settle(id, (one) => one.reject(new Error("the connection was lost")))
    if (event.code === 1008) return this.end(event.reason)
    this.on.closed()
    setTimeout(() => this.retry(), this.delay)
    this.delay = Math.min(this.delay * 2, LAST_DELAY)
  }

  async retry() {
    // A WebSocket does not tell a page why it was refused; an ordinary request does.
    try {
      const answer = await fetch("/openrpc.json", {
        headers: { authorization: `Bearer ${this.token}` },
        signal: AbortSignal.timeout(CONNECT_TIMEOUT),
      })
      if (answer.status === 401) return this.end("this page's token is good no more")
    } catch {
      // the daemon is away, or does not answer
    }
    this.connect()
  }

  end(why) {
    this.ended = true
    this.on.refused(why)
  }
}
