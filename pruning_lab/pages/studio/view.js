// The studio's view: one element over anywidget's model interface, in notebooks and on pages.

import { Actions } from "./actions.js"
import { h, put } from "./elements.js"
import { Layers } from "./layers.js"
import { Losses } from "./losses.js"
import { compression, count, percent, points, size } from "./numbers.js"
import { State } from "./state.js"
import { Trail } from "./trail.js"

const REST = 150 // ms between two drawings of attempts and losses while a threshold moves

// The numbers one looks at first. What waits for the kernel is the last that it measured, and looks so.
class Headline {
  constructor() {
    const cell = (name, title) => {
      const parts = { value: h("span", { class: `pl-value pl-${name}` }), detail: h("span", { class: "pl-detail" }) }
      parts.element = h("div", { class: "pl-figure" }, h("span", { class: "pl-label" }, title), parts.value, parts.detail)
      return parts
    }
    this.cells = {
      accuracy: cell("accuracy", "accuracy on val"),
      change: cell("change", "change, points"),
      density: cell("density", "weights kept"),
      compression: cell("compression", "compression"),
      bytes: cell("bytes", "stored"),
      flops: cell("flops", "per image"),
    }
    this.status = h("div", { class: "pl-status", role: "status" })
    this.tested = h("div", { class: "pl-tested" })
    const cells = Object.values(this.cells).map(one => one.element)
    this.element = h("header", { class: "pl-head" }, ...cells, h("div", { class: "pl-state" }, this.status, this.tested))
  }

  draw(state) {
    const now = state.get("now"), { weights, kept, density, bytes, flops, denseFlops } = state.totals
    const show = (name, value, detail) => {
      put(this.cells[name].value, value)
      put(this.cells[name].detail, detail)
    }
    show("density", percent(density), `${count(kept)} of ${count(weights)}`)
    show("compression", compression(density), "weights only")
    show("bytes", size(bytes, "B"), `of ${size(4 * weights, "B")}`)
    show("flops", flops === null ? "…" : size(flops, "FLOP"), flops === null ? "" : `of ${size(denseFlops, "FLOP")}`)
    this.drawAccuracy(state, now, show)
    put(this.tested, now.tested ?? "")
  }

  drawAccuracy(state, now, show) {
    const { accuracy, drop } = now
    const is = !state.settled || !accuracy ? "waiting" : now.final ? "final" : "estimate"
    for (const name of ["accuracy", "change"]) this.cells[name].value.dataset.state = is
    if (accuracy) {
      const between = `${percent(accuracy.low)} to ${percent(accuracy.high)}, ${count(accuracy.n)} images`
      show("accuracy", `${is === "estimate" ? "~" : ""}${(100 * accuracy.value).toFixed(2)}%`, between)
      if (drop) show("change", points(drop.value), `${points(drop.high)} to ${points(drop.low)}`)
    } else if (!this.cells.accuracy.value.textContent) {
      show("accuracy", "…", "")
      show("change", "…", "")
    }
    const words = { estimate: "an estimate, measuring on", final: "measured on all images",
      waiting: now.busy ? "a preview: not applied while a task runs" : "measuring" }[is]
    const says = now.status === "ready" || (!state.settled && now.busy) || is === "estimate" ? words
      : now.busy ? `${now.busy} …` : now.status
    this.status.dataset.state = now.status.startsWith("failed") ? "failed" : now.busy ? "waiting" : is
    put(this.status, says)
  }
}

export function render({ model, el }) {
  const state = new State(model, draw)
  const headline = new Headline(), actions = new Actions(state)
  const layers = new Layers(state), trail = new Trail(state), losses = new Losses(state)
  const problem = h("div", { class: "pl-problem", role: "alert" })
  const message = h("div", { class: "pl-message", role: "status" })
  const about = h("div", { class: "pl-about pl-faint" })
  const body = h("div", { class: "pl-body" },
    h("div", { class: "pl-left" }, layers.element, losses.blocks, losses.firstPart),
    h("div", { class: "pl-middle" }, layers.picture, h("div", { class: "pl-losses" }, ...losses.parts)),
    h("div", { class: "pl-right" }, trail.element))
  const root = h("div", { class: "pl" }, h("div", { class: "pl-sheet" }, headline.element, actions.element,
    problem, message, body, about))
  el.replaceChildren(root)

  let late = new Set(), drawn = 0, timer = 0

  // What the threshold moves is drawn with every frame; the rest waits while it moves.
  function draw(names) {
    headline.draw(state)
    layers.draw(names)
    losses.drawNetwork(names)
    for (const name of names) late.add(name)
    const wait = state.settled ? 0 : drawn + REST - performance.now()
    if (wait > 0) timer ||= setTimeout(drawRest, wait)
    else drawRest()
  }

  function drawRest() {
    clearTimeout(timer)
    const names = late
    late = new Set()
    timer = 0
    drawn = performance.now()
    layers.drawRest()
    losses.draw(names)
    trail.draw(names)
    actions.draw(names)
    const { text, problem: wrong } = state.get("message") ?? {}
    put(problem, wrong ? `▲ ${wrong}` : "")
    put(message, text ?? "")
    const { name, images, made, version, path } = state.get("network")
    put(about, [name, images, version ? `weights: ${made}` : "", path ? `saved in ${path}` : ""]
      .filter(Boolean).join(" · "))
  }

  const again = () => state.touch("theme") // everything is drawn, nothing is built
  const sizes = new ResizeObserver(again) // the chart of attempts is as large as its box
  sizes.observe(root)
  root.addEventListener("pl-resize", again) // of a canvas
  const dark = window.matchMedia("(prefers-color-scheme: dark)")
  dark.addEventListener("change", again)
  const theme = new MutationObserver(again) // of JupyterLab, which says it on its body
  theme.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light", "class"] })
  return () => {
    state.close()
    clearTimeout(timer)
    sizes.disconnect()
    theme.disconnect()
    dark.removeEventListener("change", again)
  }
}

export default { render }
