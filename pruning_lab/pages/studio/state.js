// What the view shows: the kernel's traits, and thresholds that were moved but not carried out yet.

import { bytesAt, clamp, decodeCounts, keptAt, onGrid, qualityKeeping, totals } from "./numbers.js"
import { Requests } from "./requests.js"

const TRAITS = ["network", "counts", "curves", "now", "attempts", "losses", "pictures", "first",
  "first_values", "progress", "message", "handled"]
const STILL = 50, OFTEN = 300 // ms until the kernel is told of a threshold: of one that rests, that moves
const SAME_DRAG = 1000 // ms between two key presses that are one attempt

export class State {
  // `changed(names)` is called at most once a frame with what is other than before.
  constructor(model, changed) {
    this.model = model
    this.changed = changed
    this.names = new Set()
    this.local = new Map() // place of a layer -> the quality that the user has moved it to
    this.next = null // a request that waits until the one before is carried out
    this.due = 0 // when to send it, if that one was carried out by then
    this.told = 0 // when the last one was sent
    this.drag = { id: 0, at: 0 }
    this.selected = null // the place of the layer in the large picture
    const view = Math.random().toString(36).slice(2, 10)
    this.requests = new Requests(view, value => {
      model.set("requests", value)
      model.save_changes()
    })
    this.listeners = TRAITS.map(name => [`change:${name}`, () => this.receive(name)])
    for (const [event, listener] of this.listeners) model.on(event, listener)
    for (const name of TRAITS) this.receive(name)
  }

  close() {
    for (const [event, listener] of this.listeners) this.model.off(event, listener)
    cancelAnimationFrame(this.frame)
    clearTimeout(this.timer)
  }

  get = name => this.model.get(name)

  receive(name) {
    if (name === "network" || name === "counts") this.counts = null // decoded when next needed
    if (name === "handled") {
      this.requests.handled(this.get("handled")?.[this.requests.view] ?? 0)
      if (!this.requests.waiting && !this.next) this.local.clear()
      this.flush()
    }
    if (name === "now") {
      const busy = this.get("now")?.busy ?? ""
      if (this.busy && !busy) this.forget() // what was only looked at while a task ran
      this.busy = busy
    }
    this.touch(name)
    if (name === "handled") this.touch("now")
  }

  touch(name) {
    this.names.add(name)
    this.frame ??= requestAnimationFrame(() => {
      const names = this.names
      this.frame = undefined
      this.names = new Set()
      if (!this.get("network")?.layers || !this.get("now")?.layers) return
      this.selected ??= this.largest
      this.changed(names)
    })
  }

  get layers() {
    return this.get("network").layers
  }

  get largest() {
    const sizes = this.layers.map(layer => layer.weights)
    return sizes.indexOf(Math.max(...sizes))
  }

  countsOf(place) {
    this.counts ??= decodeCounts(this.get("counts"), this.layers)
    return this.counts[place]
  }

  // A layer as it is shown: where the user has moved it, by the counts; else as the kernel says.
  row(place) {
    const layer = this.layers[place], row = this.get("now").layers[place]
    const local = this.local.get(place)
    if (local === undefined) return row
    const kept = keptAt(layer, this.countsOf(place), local)
    return { ...row, kind: "quality", amount: local, quality: local, kept,
      threshold: local * layer.sigma, bytes: bytesAt(layer, row, kept) }
  }

  get rows() {
    return this.layers.map((_, place) => this.row(place))
  }

  get totals() {
    return totals(this.layers, this.rows)
  }

  // Whether the accuracy is that of what is shown.
  get settled() {
    return this.local.size === 0
  }

  // A new drag makes another attempt; moves within it replace what it has made.
  startDrag() {
    this.drag = { id: this.drag.id + 1, at: Date.now() }
  }

  // The quality where a layer's line stands, also where it was asked for a density.
  quality(place) {
    const { kind, amount, quality, kept } = this.row(place), layer = this.layers[place]
    if (kind === "quality") return amount
    if (quality === null || kept === 0) return layer.bins * layer.step
    return Number.isFinite(quality) ? quality : qualityKeeping(layer, this.countsOf(place), kept)
  }

  // Where a drag ends is told at once.
  endDrag() {
    this.due = 0
    this.flush()
  }

  move(places, quality) {
    const free = places.filter(place => !this.get("now").layers[place].locked)
    if (!free.length) return
    const layers = {}
    for (const place of free) {
      const own = onGrid(this.layers[place], quality)
      this.local.set(place, own)
      layers[this.layers[place].name] = own
    }
    if (!this.busy) this.next = { do: "set", kind: "quality", layers, drag: this.drag.id }
    const now = performance.now()
    this.due = clamp(this.told + OFTEN, now, now + STILL)
    this.flush()
    this.touch("local")
  }

  step(places, quality) {
    if (Date.now() - this.drag.at > SAME_DRAG) this.startDrag()
    this.drag.at = Date.now()
    this.move(places, quality)
  }

  flush() {
    clearTimeout(this.timer)
    if (!this.next || this.requests.waiting) return
    const { next, due } = this, now = performance.now()
    if (now < due) {
      this.timer = setTimeout(() => this.flush(), due - now)
      return
    }
    this.next = null
    this.told = now
    this.requests.ask(next)
  }

  ask(request) {
    if (this.next) {
      this.requests.ask(this.next)
      this.next = null
    }
    this.requests.ask(request)
  }

  forget() {
    this.local.clear()
    this.next = null
    this.touch("local")
  }
}
