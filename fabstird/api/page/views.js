// What the page shows. Everything that comes from outside becomes a text node, never markup.

const SVG = "http://www.w3.org/2000/svg"

export function h(tag, attributes = {}, ...children) {
  const node = document.createElement(tag)
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value)
    else if (value !== false && value != null) node.setAttribute(name, value === true ? "" : value)
  }
  node.append(...children.flat().filter((child) => child != null && child !== ""))
  return node
}

function s(tag, attributes, ...children) {
  const node = document.createElementNS(SVG, tag)
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value)
  node.append(...children)
  return node
}

export const short = (id) => (id && id.length > 16 ? `${id.slice(0, 4)}…${id.slice(-6)}` : (id ?? ""))
export const bare = (address) => address.replace(/\/p2p\/[^/]+$/, "")

export function bytes(count) {
  if (count == null) return ""
  const units = ["B", "KiB", "MiB", "GiB", "TiB"]
  let unit = 0
  while (count >= 1024 && unit < units.length - 1) [count, unit] = [count / 1024, unit + 1]
  return `${unit && count < 100 ? count.toFixed(1) : Math.round(count)} ${units[unit]}`
}

export function span(ms) {
  const seconds = Math.max(0, Math.round(ms / 1000))
  const parts = [[Math.floor(seconds / 86400), "d"], [Math.floor(seconds / 3600) % 24, "h"], [Math.floor(seconds / 60) % 60, "m"], [seconds % 60, "s"]]
  const first = parts.findIndex(([count]) => count)
  return first < 0 ? "0s" : parts.slice(first, first + 2).filter(([count]) => count).map(([count, unit]) => count + unit).join(" ")
}

// UTC, as the daemon's own words, its log and `fabstir` have it
const utc = (ms) => (Number.isFinite(ms) && Math.abs(ms) < 8e15 ? new Date(ms).toISOString() : "")
export const clock = (ms) => utc(ms).slice(11, 19) + "Z"
export const day = (ms) => `${utc(ms).slice(0, 10)} ${clock(ms)}`
export const counted = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`

// The last values as a line; null values are gaps that are drawn over.
export function sparkline(values, width = 96, height = 22) {
  const known = values.filter((value) => value != null)
  if (known.length < 2) return s("svg", { viewBox: `0 0 ${width} ${height}`, width, height, "aria-hidden": "true" })
  const top = Math.max(...known) || 1
  const points = known.map((value, index) => [(index * width) / (known.length - 1), height - 2 - (value / top) * (height - 4)])
  const line = points.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" ")
  return s("svg", { viewBox: `0 0 ${width} ${height}`, width, height, preserveAspectRatio: "none", "aria-hidden": "true" },
    s("polygon", { class: "area", points: `0,${height} ${line} ${width},${height}` }),
    s("polyline", { class: "line", points: line }))
}

export function bars(counts, most) {
  const width = Math.max(counts.length * 10, 10)
  const marks = counts.map((count, index) => {
    const tall = most ? (count / most) * 60 : 0
    return s("rect", { class: "bar", x: index * 10 + 1, y: 62 - tall, width: 8, height: Math.max(tall, count ? 1 : 0) })
  })
  const label = counts.map((count, index) => `bucket ${index}: ${count}`).join(", ")
  return s("svg", { viewBox: `0 0 ${width} 64`, height: 64, role: "img", "aria-label": label }, ...marks)
}

export function table(id, head, rows, empty) {
  const [top, body] = [document.querySelector(`#${id} thead`), document.querySelector(`#${id} tbody`)]
  // On a narrow screen each cell stands on a line of its own, behind its column's name.
  for (const row of rows) [...row.children].forEach((cell, index) => head[index]?.[0] && cell.setAttribute("data-label", head[index][0]))
  top.replaceChildren(rows.length ? h("tr", {}, head.map(([text, kind]) => h("th", { class: kind, scope: "col" }, text))) : "")
  body.replaceChildren(...(rows.length ? rows : [h("tr", {}, h("td", { class: "empty" }, empty))]))
}

export function figure(value, label, drawing) {
  return h("div", { class: "figure" }, h("b", {}, value), h("span", {}, label), drawing)
}

export function stateOf(status) {
  if (!status) return ["no daemon", "bad"]
  return [status.state, { started: "good", failed: "bad" }[status.state] ?? "warn"]
}

// One line: what the person in front of the page may want to do next.
export function whatNext(status, peers, dials, addresses) {
  if (status.state === "failed") return `The node could not start: ${status.error}. Correct the configuration and start it again.`
  if (status.state !== "started") return `The node is ${status.state}. \`fabstir start\` starts it.`
  const dead = dials.find((dial) => dial.state === "resting")
  if (dead) return `${bare(dead.address)} could not be reached: ${dead.lastError ?? "no reason known"}. Is that node up, and is the address right?`
  if (!peers.length && !dials.length) return "Nobody is connected. Connect to a peer below, or set [node] bootstrap_nodes."
  if (!peers.length) return "Nobody is connected yet; dials are under way."
  const reach = reachability(addresses)
  if (reach === "unreachable") return "Others cannot reach this node: forward a port to it, or name a relay in [relay] nodes."
  return `All is well: ${counted(peers.length, "peer")} connected.`
}

export function reachability(addresses) {
  const states = (addresses?.reachability ?? []).map((one) => one.reachable ?? one.state)
  return ["reachable", "relayed", "unreachable"].find((state) => states.includes(state)) ?? "unknown"
}

export function eventWords(entry) {
  const { type, data } = entry
  const peer = data.peerId ? short(data.peerId) : ""
  const rest = Object.entries(data)
    .filter(([name]) => !["peerId", "protocols", "addresses"].includes(name))
    .map(([name, value]) => `${name} ${typeof value === "object" ? JSON.stringify(value) : name === "duration" || name === "delay" || name === "took" ? span(value) : bare(String(value))}`)
  const kind = /failed|error/.test(type) ? "bad" : /retry|cancelled|disconnect/.test(type) ? "warn" : "good"
  return h("li", {}, h("time", { datetime: utc(entry.time) }, clock(entry.time)), h("b", { class: kind }, type), h("span", { class: "grow" }, [peer, ...rest].filter(Boolean).join(" · ")))
}

export function gapWords(notice) {
  const many = notice.missed == null ? "The daemon was restarted; earlier events are of another run" : `${counted(notice.missed, "event")} missed`
  return h("li", { class: "gap" }, `— ${many} —`)
}

export function logLine(line) {
  let about = {}
  try {
    about = JSON.parse(line.text)
  } catch {
    about = { event: line.text }
  }
  const { time, level, event, logger, ...rest } = about
  const words = Object.entries(rest).map(([name, value]) => `${name}=${typeof value === "string" ? value : JSON.stringify(value)}`)
  const kind = { warning: "warn", error: "bad", critical: "bad" }[line.level]
  return h("li", {}, h("time", {}, time ? clock(Date.parse(time)) : ""), h("span", { class: kind }, line.level), h("span", { class: "grow" }, [event, ...words].join(" "), h("span", { class: "quiet" }, logger ? ` ${logger}` : "")))
}
