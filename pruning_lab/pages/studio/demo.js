// The model behind the studio's view where no Python runs: what the kernel does in a notebook, for one
// network in int8 and 500 images. The view knows only anywidget's interface: get, set, save_changes, on.

import { History } from "./history.js"
import { Batch, SIDE, accuracyOf, compared, pixelMap, unpacked } from "./network.js"
import { bytesAt } from "./numbers.js"
import { Pad } from "./pad.js"
import { render } from "./view.js"

const SLICE = 50 // images: a few milliseconds
const FRAME = 8 // ms of work, after which the browser may draw
const ESTIMATE = 100 // images after which there is a first number
const SHOWN = 24 // lost images

export class Model {
  constructor(network) {
    this.network = network
    this.history = new History(network.layers)
    const size = SLICE * SIDE * SIDE
    this.batches = Array.from({ length: network.images.length / size }, (_, i) =>
      new Batch(network, network.images.subarray(i * size, (i + 1) * size)))
    const dense = network.layers.map(layer => layer.alive)
    this.before = Uint8Array.from(this.batches.flatMap(batch => [...batch.answers(dense)]))
    this.handled = {}
    this.message = { text: "", problem: "" }
    this.listeners = {}
    this.traits = { ...this.constants(), progress: {} }
    this.choose()
    this.measure()
  }

  // ------------------------------------------------------------------- what the view may call

  get(name) {
    return this.traits[name]
  }

  set(name, value) {
    this.traits[name] = value
  }

  save_changes() {
    queueMicrotask(() => this.carryOut(this.traits.requests))
  }

  on(event, listener) {
    (this.listeners[event] ??= new Set()).add(listener)
  }

  off(event, listener) {
    this.listeners[event]?.delete(listener)
  }

  send(changes) {
    Object.assign(this.traits, changes)
    for (const name of Object.keys(changes))
      for (const listener of this.listeners[`change:${name}`] ?? []) listener()
  }

  // ------------------------------------------------------------------------------- requests

  // The view sends all that it does not know to be carried out; what was, is not done again.
  carryOut({ view, list }) {
    const message = { text: "", problem: "" }
    for (const request of list.filter(({ n }) => n > (this.handled[view] ?? 0))) {
      this.handled = { ...this.handled, [view]: request.n }
      try {
        this.act(request)
        this.choose()
      } catch (error) {
        message.problem = error.message
      }
    }
    this.message = message
    this.measure()
  }

  act(request) {
    const { history } = this
    const actions = {
      set: ({ kind, layers, drag }) => history.set(kind, layers, drag),
      string: ({ text }) => history.fromText(text),
      lock: ({ layer, locked }) => history.locks[locked ? "add" : "delete"](layer),
      undo: () => history.undo(),
      redo: () => history.redo(),
      go: ({ number }) => history.go(number),
      name: ({ text }) => { history.attempt.name = text },
      branch: ({ text }) => history.branch(text),
    }
    if (!Object.hasOwn(actions, request.do)) throw new Error("this page cannot; the studio can")
    actions[request.do](request)
  }

  // ------------------------------------------------------------------------- what is measured

  // What the settings come to, in weights.
  choose() {
    const { attempt } = this.history
    this.rows = this.network.layers.map(layer => this.row(layer))
    this.kept = this.rows.map(row => row.kept)
    attempt.density = this.kept.reduce((sum, n) => sum + n) / this.traits.network.weights
    attempt.bytes = this.rows.reduce((sum, row) => sum + row.bytes, 0)
  }

  row(layer) {
    const setting = this.history.setting(layer.name), { kept, threshold, quality } = layer.choose(setting)
    const finite = number => Number.isFinite(number) ? number : null
    return { ...setting, kept, threshold: finite(threshold), quality: finite(quality),
      bytes: bytesAt({ weights: layer.size }, { kept: 0, bytes: 0 }, kept),
      locked: this.history.locks.has(layer.name) }
  }

  // Slices of images; what was asked for later ends what is measured for an earlier attempt.
  async measure() {
    const turn = (this.turn = {}), answers = []
    let began = performance.now()
    for (const batch of this.batches) {
      answers.push(...batch.answers(this.kept))
      const final = batch === this.batches.at(-1)
      if (final) this.record(answers)
      if (final || answers.length === ESTIMATE) this.send(this.results(answers, final))
      if (answers.length !== ESTIMATE && performance.now() - began < FRAME) continue
      await new Promise(done => setTimeout(done))
      if (turn !== this.turn) return
      began = performance.now()
    }
  }

  record(answers) {
    const { accuracy, drop } = compared(this.network.labels, this.before, answers)
    Object.assign(this.history.attempt, { accuracy, drop })
  }

  // ---------------------------------------------------------------------------- what is shown

  constants() {
    const { name, layers, labels, curves } = this.network
    let offset = 0
    const counts = layers.map(layer => layer.grid())
    const about = layers.map(({ name, size, alive, sigma, shape, step }, i) => {
      const own = { name, label: name, weights: size, alive, sigma, flops: 2 * size, is_conv: false,
        shape, step, bins: counts[i].length - 1, offset }
      offset += counts[i].length
      return own
    })
    const weights = layers.reduce((sum, layer) => sum + layer.size, 0)
    const images = `${labels.length} val images of mnist-5k`
    const network = { name, made: "as it came", version: 0, weights, images, classes: 10,
      has_train: false, has_test: false, path: "", layers: about }
    const right = this.before.filter((named, i) => named === labels[i]).length
    this.dense = accuracyOf(right, labels.length)
    return { network, counts: new DataView(Uint32Array.from(counts.flat()).buffer), curves }
  }

  results(answers, final) {
    const { network, history } = this, { attempt } = history
    const found = compared(network.labels, this.before, answers)
    const { accuracy, drop } = attempt.accuracy ? attempt : found
    const now = { number: attempt.number, status: final ? "ready" : "measuring", busy: "", layers: this.rows,
      accuracy, drop, final: Boolean(attempt.accuracy), dense: this.dense, can_undo: Boolean(attempt.parent),
      can_redo: Boolean(history.redos[attempt.number]), tests: 0, tested: "", string: history.toText() }
    const { first, values } = pixelMap(network.layers[0], this.kept[0])
    return { now, attempts: this.listed(), ...this.losses(found, answers, final), first,
      first_values: new DataView(values.buffer), message: this.message, handled: this.handled }
  }

  losses({ lost, won, classes }, answers, final) {
    const { labels, images } = this.network, shown = lost.slice(0, SHOWN), size = SIDE * SIDE
    const pictures = new Uint8Array(shown.length * size)
    shown.forEach((index, i) => pictures.set(images.subarray(index * size, (index + 1) * size), i * size))
    const losses = { n: answers.length, lost: lost.length, won: won.length, side: [SIDE, SIDE, 1],
      shown: shown.map(index => (
        { index, label: labels[index], before: this.before[index], after: answers[index] })),
      classes, final }
    return { losses, pictures: new DataView(pictures.buffer) }
  }

  // The attempts, and which no other beats: as accurate on fewer weights, or better.
  listed() {
    const { attempts } = this.history, chance = 1 / this.traits.network.classes
    let most = -1
    const best = attempts.filter(one => one.accuracy?.low > chance)
      .sort((a, b) => a.density - b.density || b.accuracy.value - a.accuracy.value)
      .filter(({ accuracy: { value } }) => value > most && ((most = value), true))
    return attempts.map(one => ({ version: 0, accuracy: null, drop: null, ...one, best: best.includes(one) }))
  }
}

// Fill the page: the studio's view, and the pad to draw digits on.
export async function show(data, { studio, pad }) {
  const network = await unpacked(data), model = new Model(network)
  render({ model, el: studio })
  const drawn = new Pad(pad, network)
  drawn.keep(model.kept)
  model.on("change:now", () => drawn.keep(model.kept))
  return model
}
