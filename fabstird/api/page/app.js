// The page: takes the code out of the address, changes it into a token, and keeps what it shows up to date.

import { Client, RpcError } from "/ui/client.js"
import { bare, bars, bytes, clock, counted, day, eventWords, figure, gapWords, h, logLine, reachability, short, span, sparkline, stateOf, table, whatNext } from "/ui/views.js"

const TOKEN = "fabstird.token" // in sessionStorage: it ends with the tab
const KEPT_EVENTS = 500
const KEPT_LINES = 500
const SAMPLES = 60
const TICK = 2000 // ms between two looks at what no event tells

const at = (id) => document.getElementById(id)
const seen = { status: null, peers: [], dials: [], addresses: null, tunnels: null, metrics: null, dht: null }
const latencies = new Map() // of each peer: the last SAMPLES
const traffic = { in: [], out: [], last: null }
const rates = new Map() // of each peer: bytes a second
let client = null
let access = "read"
let logAt = null

const may = (level) => ["read", "write", "admin"].indexOf(access) >= ["read", "write", "admin"].indexOf(level)

async function session() {
  const code = new URLSearchParams(location.hash.slice(1)).get("code")
  history.replaceState(null, "", location.pathname) // the code is in no address bar, and in no history
  if (code) {
    const answer = await fetch("/ui/token", { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ code }) })
    const result = await answer.json()
    if (answer.ok) sessionStorage.setItem(TOKEN, JSON.stringify(result))
    else if (!sessionStorage.getItem(TOKEN)) return refuse(result.error?.message ?? result.error)
  }
  const kept = JSON.parse(sessionStorage.getItem(TOKEN) ?? "null")
  if (!kept) return refuse("this page opens with a code")
  access = kept.access
  at("access").textContent = `${access} access until ${clock(kept.expires)}`
  client = new Client(kept.token, { open: opened, event: happened, lagged: missed, closed: lost, refused: refuse })
}

function refuse(why) {
  sessionStorage.removeItem(TOKEN)
  show(null)
  at("state").textContent = "locked"
  at("next").textContent = `${why[0].toUpperCase()}${why.slice(1)}. Run \`fabstir ui\` in a terminal to open this page.`
}

async function opened(snapshot) {
  if (!seen.status) await showPast(snapshot)
  seen.status = snapshot.status
  seen.peers = snapshot.peers
  at("connect-form").hidden = !may("write")
  at("log-card").hidden = !may("admin")
  show(seen.status)
  tick()
}

// What the log of events still holds, before the first one comes live.
async function showPast({ epoch, head }) {
  const past = await look("events", { after: Math.max(0, head - 200), epoch, limit: 200 })
  for (const entry of past?.events ?? []) if (entry.seq <= head) addEntry("events", eventWords(entry), KEPT_EVENTS)
}

function lost() {
  show(null)
  at("next").textContent = "The daemon does not answer. The page goes on by itself once it does."
}

function happened(entry) {
  addEntry("events", eventWords(entry), KEPT_EVENTS)
  at("events-count").textContent = `up to number ${entry.seq}`
  if (/^(peer|p2p|connection):/.test(entry.type)) soon()
}

const missed = (notice) => addEntry("events", gapWords(notice), KEPT_EVENTS)

function addEntry(id, node, most) {
  const list = at(id)
  list.prepend(node)
  while (list.childElementCount > most) list.lastElementChild.remove()
}

// ---------------------------------------------------------------------------------------------------------------------
// Looking

let timer = null
let looking = false

function soon(delay = 150) {
  clearTimeout(timer)
  timer = setTimeout(tick, delay)
}

async function look(method, params) {
  try {
    return await client.call(method, params)
  } catch (error) {
    if (error instanceof RpcError) return null // not for this token, or not while the node is stopped
    throw error
  }
}

async function tick() {
  if (looking || document.hidden) return soon(TICK)
  looking = true
  try {
    const asked = [look("status"), look("peers"), look("metrics"), look("dials"), look("addresses"), look("dht.status"), look("dht.routing"), look("tunnel.list")]
    const [status, peers, metrics, dials, addresses, dht, routing, tunnels] = await Promise.all(asked)
    Object.assign(seen, { status, peers: peers ?? [], metrics, dials: dials ?? [], addresses, dht, routing, tunnels })
    measure()
    show(status)
    if (may("admin")) await readLog()
  } catch {
    // the connection is gone; `lost` has said so
  } finally {
    looking = false
    soon(TICK)
  }
}

function measure() {
  const now = performance.now()
  for (const peer of seen.peers) {
    const values = latencies.get(peer.peerId) ?? []
    latencies.set(peer.peerId, [...values, peer.latency ?? null].slice(-SAMPLES))
    const total = peer.connections.reduce((sum, one) => sum + (one.bytesIn ?? 0) + (one.bytesOut ?? 0), 0)
    const before = rates.get(peer.peerId)
    rates.set(peer.peerId, { total, now, rate: before ? Math.max(0, ((total - before.total) * 1000) / (now - before.now)) : 0 })
  }
  for (const known of [...latencies.keys()]) if (!seen.peers.some((peer) => peer.peerId === known)) [latencies, rates].forEach((map) => map.delete(known))
  const { bytesReceived, bytesSent } = seen.metrics ?? {}
  if (bytesReceived == null) return
  if (traffic.last) {
    const seconds = (now - traffic.last.now) / 1000
    traffic.in = [...traffic.in, Math.max(0, bytesReceived - traffic.last.in) / seconds].slice(-SAMPLES)
    traffic.out = [...traffic.out, Math.max(0, bytesSent - traffic.last.out) / seconds].slice(-SAMPLES)
  }
  traffic.last = { now, in: bytesReceived, out: bytesSent }
}

async function readLog() {
  const tail = await look("log.tail", { level: at("log-level").value, limit: 200, ...(logAt == null ? {} : { after: logAt }) })
  if (!tail) return
  if (tail.missed) addEntry("log", gapWords({ missed: tail.missed }), KEPT_LINES)
  for (const line of tail.lines) addEntry("log", logLine(line), KEPT_LINES)
  logAt = tail.lines.length ? tail.lines.at(-1).seq : tail.head
}

// ---------------------------------------------------------------------------------------------------------------------
// Showing

function show(status) {
  const [word, kind] = stateOf(status)
  at("state").textContent = word
  at("state").className = `pill ${kind}`
  document.title = status ? `${counted(seen.peers.length, "peer")} · fabstird` : "fabstird"
  if (!status) return
  at("peer-id").hidden = false
  at("peer-id").textContent = short(status.peerId)
  at("peer-id").setAttribute("aria-label", `Copy this node's peer id ${status.peerId}`)
  at("version").textContent = `version ${status.version}`
  at("next").textContent = whatNext(status, seen.peers, seen.dials, seen.addresses)
  const last = (values) => (values.length ? `${bytes(values.at(-1))}/s` : "–")
  at("figures").replaceChildren(
    figure(String(seen.peers.length), seen.peers.length === 1 ? "peer" : "peers"),
    figure(status.uptime == null ? "–" : span(status.uptime), "up"),
    figure(last(traffic.in), `received, ${bytes(seen.metrics?.bytesReceived ?? 0)} in all`, sparkline(traffic.in)),
    figure(last(traffic.out), `sent, ${bytes(seen.metrics?.bytesSent ?? 0)} in all`, sparkline(traffic.out)),
    figure(reachability(seen.addresses), "from outside"),
  )
  showPeers()
  showDials()
  showAddresses()
  showTunnels()
  showDht()
}

function showPeers() {
  at("peers-count").textContent = String(seen.peers.length)
  const now = Date.now()
  const rows = seen.peers.map((peer) => {
    const first = peer.connections[0]
    const marks = [peer.bootstrap && "bootstrap", peer.protected && "protected", first?.relay && "relayed", ...Object.keys(peer.tags ?? {})].filter(Boolean)
    return h("tr", {},
      h("td", {}, h("button", { class: "quiet mono", title: peer.peerId, onclick: () => explain(peer.peerId) }, short(peer.peerId)), marks.map((mark) => h("span", { class: "tag" }, mark))),
      h("td", {}, peer.direction),
      h("td", { class: "nowrap" }, span(now - peer.connectedAt)),
      h("td", { class: "nowrap" }, peer.latency == null ? "" : `${peer.latency.toFixed(peer.latency < 10 ? 1 : 0)} ms`),
      h("td", { class: "optional" }, sparkline(latencies.get(peer.peerId) ?? [])),
      h("td", { class: "optional" }, peer.agentVersion ?? ""),
      h("td", { class: "optional" }, String(peer.connections.reduce((sum, one) => sum + one.streams, 0))),
      h("td", { class: "optional" }, rates.get(peer.peerId)?.total ? `${bytes(rates.get(peer.peerId).rate)}/s` : ""),
      h("td", { class: "address mono optional" }, first ? bare(first.address) : ""),
      h("td", { class: "act" }, may("write") ? [button("Disconnect", () => act("disconnect", { peerId: peer.peerId })), " ", button("Ban", () => ban(peer.peerId))] : ""))
  })
  const head = [["Peer"], ["Direction"], ["Up"], ["Latency"], ["", "optional"], ["Agent", "optional"], ["Streams", "optional"], ["Rate", "optional"], ["Address", "optional"], [""]]
  table("peers", head, rows, "Nobody is connected.")
}

function showDials() {
  at("dials-count").textContent = seen.dials.length ? String(seen.dials.length) : ""
  const kinds = { connected: "good", resting: "bad", waiting: "warn" }
  const rows = seen.dials.map((dial) => h("tr", {},
    h("td", { class: "address mono" }, h("button", { class: "quiet mono", onclick: () => explain(dial.address) }, `${bare(dial.address)}${dial.peerId ? ` ${short(dial.peerId)}` : ""}`)),
    h("td", {}, dial.source),
    h("td", { class: kinds[dial.state] }, dial.state === "resting" ? "gave up" : dial.state),
    h("td", { class: "optional" }, String(dial.attempts)),
    h("td", { class: "nowrap" }, dial.nextDial ? `in ${span(dial.nextDial - Date.now())}` : ""),
    h("td", { class: "address" }, dial.lastError ?? ""),
    h("td", { class: "act" }, may("write") && dial.source === "kept" ? button("Forget", () => act("peer.forget", { address: dial.address })) : "")))
  table("dials", [["Address"], ["From"], ["State"], ["Dials", "optional"], ["Next"], ["Last error"], [""]], rows, "No bootstrap nodes, and no kept addresses.")
}

function showAddresses() {
  const told = seen.addresses
  const all = new Map()
  for (const kind of ["listen", "announced", "observed"]) for (const one of told?.[kind] ?? []) all.set(one, [...(all.get(one) ?? []), kind])
  const states = new Map((told?.reachability ?? []).map((one) => [bare(one.address), one.reachable ?? one.state]))
  const rows = [...all].map(([address, kinds]) => {
    const state = states.get(bare(address)) ?? ""
    return h("tr", {},
      h("td", { class: "address mono" }, bare(address)),
      h("td", {}, kinds.map((kind) => h("span", { class: "tag" }, kind))),
      h("td", { class: { reachable: "good", unreachable: "bad" }[state] ?? "" }, state),
      h("td", { class: "act" }, button("Copy", () => copy(address))))
  })
  table("addresses", [["Address"], ["Known as"], ["From outside"], [""]], rows, "The node does not listen.")
}

function showTunnels() {
  at("tunnels-card").hidden = !seen.tunnels?.length
  const rows = (seen.tunnels ?? []).map((one) => h("tr", {},
    h("td", {}, one.kind),
    h("td", { class: "address mono" }, one.protocol),
    h("td", { class: "address mono" }, one.kind === "listen" ? one.target : `${one.listen} → ${short(one.peerId)}`),
    h("td", {}, `${one.open} open`),
    h("td", {}, `${bytes(one.bytesIn)} in, ${bytes(one.bytesOut)} out`),
    h("td", { class: "address bad" }, one.lastError ?? "")))
  table("tunnels", [["Kind"], ["Protocol"], ["Where"], ["Streams"], ["Traffic"], ["Last error"]], rows, "")
}

function showDht() {
  at("dht-card").hidden = !seen.dht
  if (!seen.dht) return
  at("dht-mode").textContent = `${seen.dht.mode}, ${counted(seen.dht.peers, "peer")}`
  const counts = (seen.routing?.buckets ?? []).map((bucket) => bucket.peers.length)
  const held = `Holds ${counted(seen.dht.values, "value")} and ${counted(seen.dht.providedKeys, "provided key")} of others.`
  at("dht").replaceChildren(counts.length ? h("div", { class: "scroll" }, bars(counts, Math.max(...counts, 1))) : "", h("p", { class: "empty" }, held))
}

// ---------------------------------------------------------------------------------------------------------------------
// Doing

const button = (text, onclick) => h("button", { onclick: async (event) => {
  event.target.disabled = true
  await onclick()
  event.target.disabled = false
} }, text)

async function act(method, params) {
  try {
    await client.call(method, params)
    soon(0)
    return true
  } catch (error) {
    toast(error.message)
    return false
  }
}

async function ban(peerId) {
  if (confirm(`Ban ${short(peerId)} for good? \`fabstir unban\` lifts it.`)) await act("peer.ban", { target: peerId })
}

async function explain(target) {
  const told = await look("peer.explain", { target }).catch(() => null)
  if (!told) return toast("Nothing is known of it.")
  at("details-title").textContent = short(told.peerId ?? target)
  at("details-body").replaceChildren(
    h("p", {}, `${told.summary[0].toUpperCase()}${told.summary.slice(1)}.`),
    told.peerId ? h("p", { class: "mono quiet" }, told.peerId) : "",
    h("ul", { class: "mono" }, told.addresses.map((one) => h("li", {}, `${bare(one.address)} · ${one.source}${one.state ? ` · ${one.state}` : ""}${one.lastError ? ` · ${one.lastError}` : ""}`))),
    h("ol", { class: "timeline" }, told.timeline.slice(-40).reverse().map((one) => h("li", {}, h("time", {}, day(one.time)), h("b", {}, one.what), h("span", { class: "grow" }, one.detail ?? "")))))
  at("details").showModal()
}

let hiding = null

function toast(text) {
  at("toast").textContent = text
  at("toast").hidden = false
  clearTimeout(hiding)
  hiding = setTimeout(() => (at("toast").hidden = true), 6000)
}

async function copy(text) {
  await navigator.clipboard.writeText(text).then(() => toast("Copied."), () => toast(text))
}

async function fromField(method) {
  const address = at("connect-address").value.trim()
  if (address && (await act(method, { address }))) at("connect-address").value = ""
}

at("peer-id").addEventListener("click", () => copy(seen.status.peerId))
at("connect").addEventListener("click", () => fromField("connect"))
at("keep").addEventListener("click", () => fromField("peer.keep"))
at("connect-address").addEventListener("keydown", (event) => event.key === "Enter" && fromField("connect"))
at("log-level").addEventListener("change", () => {
  logAt = null
  at("log").replaceChildren()
  soon(0)
})
document.addEventListener("visibilitychange", () => document.hidden || soon(0))
addEventListener("hashchange", session) // `fabstir ui` again, in a tab that was there
session()
