// A pad to draw a digit on, and what the network makes of it before and after pruning.

import { centred, inked } from "./digit.js"
import { drawPixels } from "./drawing.js"
import { h, put } from "./elements.js"
import { Batch, SIDE } from "./network.js"

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }
const EXAMPLE = [[[9, 7], [13, 5], [17, 7], [17, 10], [13, 13], [17, 16], [17, 20], [13, 22], [9, 20]]]
const LINE = 0.3 // pixels: nearer points are one

export class Pad {
  constructor(element, network) {
    this.network = network
    this.dense = network.layers.map(layer => layer.alive)
    this.strokes = EXAMPLE
    this.example = true
    this.pen = { at: [SIDE / 2, SIDE / 2], down: false, shown: false } // of the keyboard
    this.canvas = h("canvas", { class: "pad", tabindex: 0, role: "application",
      "aria-label": "Draw a digit with the mouse, a finger or the arrow keys; space lowers and lifts the pen" })
    this.seen = h("canvas", { class: "seen", role: "img", "aria-label": "the digit as the network sees it" })
    this.bars = [...network.layers.at(-1).bias.keys()].map(digit => this.bar(digit))
    this.answer = h("div", { class: "answer", role: "status" })
    const clear = h("button", { type: "button", class: "clear", onclick: () => this.clear() }, "Clear")
    element.replaceChildren(
      h("figure", {}, this.canvas, h("figcaption", {}, "Draw a digit ", clear)),
      h("figure", {}, this.seen, h("figcaption", {}, "as the network sees it")),
      h("figure", {}, h("div", { class: "bars" }, ...this.bars.map(bar => bar.element)), this.answer))
    this.listen()
    this.redraw()
  }

  bar(digit) {
    const before = h("i", { class: "before" }), after = h("i", { class: "after" })
    const element = h("div", { class: "bar" }, h("div", {}, before, after), h("b", {}, String(digit)))
    return { before, after, element }
  }

  listen() {
    const { canvas } = this
    canvas.addEventListener("pointerdown", event => {
      if (event.button !== 0) return
      canvas.setPointerCapture(event.pointerId)
      this.pen.shown = false
      this.begin(this.place(event))
    })
    canvas.addEventListener("pointermove", event => {
      if (!canvas.hasPointerCapture(event.pointerId)) return
      const events = event.getCoalescedEvents?.() ?? []
      for (const one of events.length ? events : [event]) this.extend(this.place(one))
    })
    canvas.addEventListener("keydown", event => {
      if (!this.press(event.key)) return
      event.preventDefault()
      this.redraw()
    })
  }

  // In pixels of the image; 0 is the middle of the first.
  place({ clientX, clientY }) {
    const { left, top, width, height } = this.canvas.getBoundingClientRect()
    return [((clientX - left) / width) * SIDE - 0.5, ((clientY - top) / height) * SIDE - 0.5]
  }

  press(key) {
    const { pen } = this
    if (key === "Delete" || key === "Backspace") this.clear()
    else if (key === " ") {
      pen.down = !pen.down
      if (pen.down) this.begin(pen.at)
    } else if (ARROWS[key]) {
      pen.at = pen.at.map((value, axis) => Math.min(SIDE - 1, Math.max(0, value + ARROWS[key][axis])))
      if (pen.down) this.extend(pen.at)
    } else return false
    pen.shown = true
    return true
  }

  begin(point) {
    if (this.example) this.strokes = []
    this.example = false
    this.strokes = [...this.strokes, [point]]
    this.redraw()
  }

  extend(point) {
    const stroke = this.strokes.at(-1), [x, y] = stroke.at(-1)
    if (Math.hypot(point[0] - x, point[1] - y) < LINE) return
    stroke.push(point)
    this.redraw()
  }

  clear() {
    this.strokes = []
    this.example = this.pen.down = false
    this.redraw()
  }

  redraw() {
    this.batch = null
    this.ask()
  }

  // Each layer keeps so many weights from now on.
  keep(kept) {
    this.kept = kept
    this.ask()
  }

  ask() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = undefined
      this.draw()
    })
  }

  draw() {
    if (!this.batch) this.drawDigit()
    const after = this.strokes.length ? probabilities(this.batch.logits(this.kept, 0)) : []
    this.bars.forEach((bar, digit) => {
      bar.before.style.height = `${100 * (this.before[digit] ?? 0)}%`
      bar.after.style.height = `${100 * (after[digit] ?? 0)}%`
    })
    put(this.answer, after.length ? `dense ${named(this.before)}, pruned ${named(after)}` : "")
  }

  drawDigit() {
    const { pen, strokes } = this, image = centred(strokes), side = [SIDE, SIDE, 1]
    drawPixels(this.canvas, inked(strokes), side)
    drawPixels(this.seen, image, side)
    if (pen.shown) {
      const context = this.canvas.getContext("2d")
      context.fillStyle = pen.down ? "#f60" : "#39f"
      context.fillRect(...pen.at, 1, 1)
    }
    this.batch = new Batch(this.network, image)
    this.before = strokes.length ? probabilities(this.batch.logits(this.dense, 0)) : []
  }
}

function probabilities(logits) {
  const most = Math.max(...logits), powers = [...logits].map(logit => Math.exp(logit - most))
  const sum = powers.reduce((total, power) => total + power)
  return powers.map(power => power / sum)
}

function named(probable) {
  const most = Math.max(...probable)
  return `${probable.indexOf(most)} (${Math.round(100 * most)}%)`
}
