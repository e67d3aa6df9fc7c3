// The host of the view on the page of `pruning-lab studio`: anywidget's model over a websocket.
//
// A message is binary frames (length of the name, name, bytes), then one of JSON with the other
// values; they take effect together.

import { render } from "./view.js"

const WAIT = [300, 3000] // ms until the connection is tried again: first, at most
const root = document.querySelector("#studio"), lost = document.querySelector("#lost")

class Model {
  constructor(opened) {
    this.opened = opened // called when all values are there for the first time
    this.values = {}
    this.binary = {} // of the message that is being read
    this.listeners = new Map()
    this.requests = new Map() // view -> the last ones that it has set
    this.unsent = new Set() // views
    this.wait = WAIT[0]
    this.connect()
  }

  get(name) {
    return this.values[name]
  }

  // Pages set nothing but requests; each view has its own.
  set(name, requests) {
    this.requests.set(requests.view, requests)
    this.unsent.add(requests.view)
  }

  save_changes() {
    if (this.socket.readyState !== WebSocket.OPEN) return // sent when it is
    for (const view of this.unsent)
      this.socket.send(JSON.stringify({ requests: this.requests.get(view) }))
    this.unsent.clear()
  }

  on(event, listener) {
    this.listeners.set(event, [...(this.listeners.get(event) ?? []), listener])
  }

  off(event, listener) {
    if (event === undefined) this.listeners.clear()
    else this.listeners.set(event, (this.listeners.get(event) ?? []).filter(own => listener && own !== listener))
  }

  connect() {
    this.socket = new WebSocket(`ws://${location.host}/socket`)
    this.socket.binaryType = "arraybuffer"
    this.socket.onmessage = ({ data }) => this.receive(data)
    this.socket.onclose = () => {
      lost.hidden = false
      this.binary = {}
      setTimeout(() => this.connect(), this.wait)
      this.wait = Math.min(WAIT[1], 2 * this.wait)
    }
  }

  receive(data) {
    if (typeof data !== "string") {
      const length = new Uint8Array(data)[0]
      const name = new TextDecoder().decode(data.slice(1, 1 + length))
      this.binary[name] = new DataView(data.slice(1 + length)) // a copy: numbers begin at its start
      return
    }
    const values = { ...JSON.parse(data), ...this.binary }
    this.binary = {}
    Object.assign(this.values, values)
    if (!lost.hidden || this.opened) this.greet()
    for (const name of Object.keys(values))
      for (const listener of this.listeners.get(`change:${name}`) ?? []) listener()
  }

  // The first message of a connection has come: all values. Requests may have been lost with the
  // connection before; those that were carried out are not carried out again.
  greet() {
    lost.hidden = true
    this.wait = WAIT[0]
    this.unsent = new Set(this.requests.keys())
    this.save_changes()
    this.opened?.()
    this.opened = undefined
  }
}

// The address holds the settings, so that it can be kept, or sent to others: what it held when the
// page was opened is asked for once.
class Address {
  constructor(model) {
    this.model = model
    this.view = `address-${Math.random().toString(36).slice(2, 10)}`
    this.asked = 0
    model.on("change:now", () => this.show())
    model.on("change:handled", () => this.show())
    addEventListener("hashchange", () => this.ask())
    this.ask()
  }

  get settings() {
    return this.model.get("now").string
  }

  get waits() {
    return (this.model.get("handled")[this.view] ?? 0) < this.asked
  }

  ask() {
    const text = location.hash.slice(1) // which Python has quoted
    if (!text || text === this.settings) return this.show()
    const list = [{ n: ++this.asked, do: "string", text }]
    this.model.set("requests", { view: this.view, list })
    this.model.save_changes()
  }

  show() {
    if (this.waits) return
    const hash = this.settings ? `#${this.settings}` : location.pathname
    if (hash !== location.hash) history.replaceState(history.state, "", hash)
  }
}

// The token has brought a cookie: it need not stand in the address, nor in the browser's history.
history.replaceState(history.state, "", location.pathname + location.hash)

const model = new Model(() => {
  new Address(model)
  root.replaceChildren()
  render({ model, el: root })
})
