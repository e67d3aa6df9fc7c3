// The layers as rows, and the large picture of the selected one: thresholds to drag.

import { drawBars, drawLine, drawText, drawThreshold, palette, prepared, sizeOf } from "./drawing.js"
import { button, h, put, s } from "./elements.js"
import { clamp, count, histogram, keptAt, onCurve, percent, reach } from "./numbers.js"

const KEY_STEPS = { ArrowLeft: -0.05, ArrowDown: -0.05, ArrowRight: 0.05, ArrowUp: 0.05,
  PageDown: -0.25, PageUp: 0.25 }
const MARGIN = { left: 14, right: 58, top: 26, bottom: 34 } // of the large picture
const MINI = 60, BIG = 240 // columns of the histograms, at most
const INSET = 7 // of a row's histogram, for the handle at its ends
const CURVE = 84 // height of the accuracy's strip
const CLOSED = "M5 8V5a3 3 0 0 1 6 0v3", OPEN = "M5 8V4a3 3 0 0 1 6 0" // shackles of a padlock

const padlock = shackle => s("svg", { viewBox: "0 0 16 16", width: 15, "aria-hidden": true },
  shackle, s("rect", { x: 3, y: 8, width: 10, height: 7, rx: 1.5 }))

// Few weights make a ragged histogram of many columns.
const columnsFor = (layer, most) => clamp(Math.round(2 * Math.sqrt(layer.weights)), 24, most)

// A canvas whose threshold follows the pointer and the keys. `place()` says of which layer it is,
// `scale()` from where to where its axis goes, in pixels and in sigma.
function draggable(canvas, state, place, scale, moved) {
  const quality = event => {
    const { left, right, end } = scale()
    const x = event.clientX - canvas.getBoundingClientRect().left
    return (clamp((x - left) / (right - left), 0, 1)) * end
  }
  canvas.addEventListener("pointerdown", event => {
    if (event.button !== 0) return
    canvas.setPointerCapture(event.pointerId)
    canvas.classList.add("pl-by-pointer") // no frame around what the pointer is on
    canvas.focus({ preventScroll: true })
    state.startDrag()
    moved(place(), quality(event), false)
    event.preventDefault()
  })
  canvas.addEventListener("pointermove", event => {
    if (canvas.hasPointerCapture(event.pointerId)) moved(place(), quality(event), false)
  })
  canvas.addEventListener("lostpointercapture", () => state.endDrag())
  canvas.addEventListener("focus", () => state.touch("selected"))
  canvas.addEventListener("blur", () => {
    canvas.classList.remove("pl-by-pointer")
    state.touch("selected")
  })
  canvas.addEventListener("keydown", event => {
    canvas.classList.remove("pl-by-pointer")
    const layer = state.layers[place()], now = state.quality(place())
    const step = KEY_STEPS[event.key] && (event.shiftKey ? Math.sign(KEY_STEPS[event.key]) * layer.step
      : KEY_STEPS[event.key])
    const to = step ? now + step : { Home: 0, Delete: 0, End: layer.bins * layer.step }[event.key]
    if (to === undefined) return
    event.preventDefault()
    event.stopPropagation() // a notebook has keys of its own
    moved(place(), clamp(to, 0, layer.bins * layer.step), true)
  })
}

function describe(canvas, state, place) {
  const layer = state.layers[place], quality = state.quality(place), row = state.row(place)
  const set = (name, value) => canvas.setAttribute(name, value)
  set("aria-label", `threshold of ${layer.name}`)
  set("aria-valuemin", 0)
  set("aria-valuemax", (layer.bins * layer.step).toFixed(2))
  set("aria-valuenow", quality.toFixed(3))
  set("aria-valuetext", `${quality.toFixed(2)} sigma, ${percent(row.kept / layer.weights)} kept`)
}

const canvasSlider = name => h("canvas", { class: name, role: "slider", tabindex: 0 })

export class Layers {
  constructor(state) {
    this.state = state
    this.linked = h("select", { title: "which layers move together; locked ones stay" },
      ...["this layer alone", "all conv layers", "all fc layers", "all layers"].map(text =>
        h("option", {}, text)))
    this.list = h("div", { class: "pl-rows" })
    this.quality = h("input", { type: "number", min: 0, step: 0.05, class: "pl-quality",
      title: "quality: threshold / sigma", onchange: () => this.typed("quality", 1) })
    this.density = h("input", { type: "number", min: 0, max: 100, step: "any", class: "pl-percent",
      title: "density: the percentage of this layer's weights that stay",
      onchange: () => this.typed("density", 0.01) })
    this.title = h("b", { class: "pl-title" })
    this.facts = h("span", { class: "pl-faint", title: "weights kept" })
    this.big = canvasSlider("pl-big")
    draggable(this.big, state, () => state.selected, () => this.scale(), this.moved)
    const reset = button("↺", "keep all weights of this layer", () => {
      state.startDrag()
      this.moved(state.selected, 0, false)
    }, "pl-reset")
    const bar = h("div", { class: "pl-bar" }, this.title, this.facts, h("span", { class: "pl-space" }),
      h("label", {}, "quality ", this.quality), h("label", {}, "keep ", this.density, " %"), reset)
    this.element = h("section", { class: "pl-layers", "aria-label": "layers" },
      h("div", { class: "pl-bar" }, h("b", {}, "Layers"), h("span", { class: "pl-space" }),
        h("label", { class: "pl-faint" }, "a drag moves ", this.linked)), this.list)
    this.picture = h("section", { class: "pl-picture", "aria-label": "weights" }, bar, this.big)
  }

  moved = (place, quality, byKey) => {
    this.select(place)
    const places = this.together(place)
    if (byKey) this.state.step(places, quality)
    else this.state.move(places, quality)
  }

  // The layers that move with this one.
  together(place) {
    const { layers } = this.state, { is_conv } = layers[place]
    const kind = { 1: true, 2: false }[this.linked.selectedIndex] // conv, fc
    if (this.linked.selectedIndex === 0 || kind === !is_conv) return [place]
    const all = layers.map((_, i) => i)
    return kind === undefined ? all : all.filter(i => layers[i].is_conv === is_conv)
  }

  typed(kind, factor) {
    const input = this[kind], amount = input.valueAsNumber * factor
    const { name } = this.state.layers[this.state.selected]
    if (Number.isNaN(amount)) this.state.touch("now")
    else this.state.ask({ do: "set", kind, layers: { [name]: amount }, drag: 0 })
  }

  select(place) {
    if (this.state.selected === place) return
    this.state.selected = place
    this.state.touch("selected")
  }

  // ------------------------------------------------------------------------------ a row a layer

  build() {
    const { state } = this
    this.cache = new Map()
    this.rows = state.layers.map((layer, place) => {
      const parts = {
        name: h("button", { type: "button", class: "pl-name", title: `show ${layer.name}: `
          + `${count(layer.weights)} weights`, onclick: () => this.select(place) }, layer.label),
        mini: canvasSlider("pl-mini"),
        density: h("b", { class: "pl-row-density" }),
        kept: h("span", { class: "pl-row-kept pl-faint" }),
        spark: h("canvas", { class: "pl-spark", hidden: true, title: "accuracy when this layer alone is pruned" }),
        shackle: s("path", { fill: "none", "stroke-width": 2 }),
      }
      parts.lock = h("button", { type: "button", class: "pl-lock", onclick: () => state.ask({
        do: "lock", layer: layer.name, locked: !state.row(place).locked }) }, padlock(parts.shackle))
      const mini = () => ({ left: INSET, right: sizeOf(parts.mini).width - INSET, end: this.bars(place, MINI).end })
      draggable(parts.mini, state, () => place, mini, this.moved)
      const numbers = h("span", { class: "pl-row-numbers" }, parts.density, parts.kept)
      parts.element = h("div", { class: "pl-row", "data-layer": layer.name }, parts.name, parts.mini,
        numbers, parts.spark, parts.lock)
      return parts
    })
    this.list.replaceChildren(...this.rows.map(parts => parts.element))
    const kinds = new Set(state.layers.map(layer => layer.is_conv))
    this.linked.options[1].hidden = this.linked.options[2].hidden = kinds.size === 1
  }

  // Columns of the histogram, which change with the weights alone, and how far they reach.
  bars(place, most) {
    const layer = this.state.layers[place], counts = this.state.countsOf(place)
    const columns = columnsFor(layer, most), key = `${place} ${most}`, found = this.cache.get(key)
    if (found?.counts === counts) return found
    const end = reach(layer, counts)
    const made = { counts, end, columns: histogram(layer, counts, end, columns) }
    this.cache.set(key, made)
    return made
  }

  draw(names) {
    const { state } = this
    if (names.has("network") || !this.rows || this.rows.length !== state.layers.length) this.build()
    const all = ["network", "counts", "curves", "theme"].some(name => names.has(name)) || !this.colours
    if (all) {
      this.colours = palette(this.element) // asking for it costs a layout
      this.drawn = []
    }
    state.layers.forEach((layer, place) => this.drawRow(layer, place))
    this.drawBig()
  }

  drawRow(layer, place) {
    const { state } = this, parts = this.rows[place], row = state.row(place)
    const density = row.kept / layer.weights, chosen = place === state.selected
    const focused = document.activeElement === parts.mini
    const looks = [row.kept, state.quality(place), row.locked, chosen, focused].join()
    if (this.drawn[place] === looks) return // a drag moves one of them
    this.drawn[place] = looks
    put(parts.density, percent(density))
    put(parts.kept, count(row.kept))
    parts.element.classList.toggle("pl-chosen", chosen)
    parts.element.classList.toggle("pl-locked", row.locked)
    parts.mini.dataset.quality = state.quality(place)
    parts.spark.hidden = !state.get("curves")?.[layer.name] // before the row is measured
    const { context, width, height } = prepared(parts.mini), { columns, end } = this.bars(place, MINI)
    const x = INSET + ((width - 2 * INSET) * clamp(state.quality(place), 0, end)) / end
    drawBars(context, columns, { x: INSET, y: 7, width: width - 2 * INSET, height: height - 9, cut: x,
      colours: this.colours, hatch: false })
    drawThreshold(context, x, 7, height - 2, this.colours, focused)
    this.drawSpark(parts.spark, layer, density)
  }

  // Locks, fields, and what screen readers are told: an element that changes costs more than a canvas.
  drawRest() {
    const { state } = this, place = state.selected, layer = state.layers[place]
    state.layers.forEach(({ name }, i) => {
      const { mini, lock, shackle } = this.rows[i], { locked } = state.row(i)
      describe(mini, state, i)
      shackle.setAttribute("d", locked ? CLOSED : OPEN)
      lock.title = locked ? `${name} is locked: free it` : `leave ${name} as it is`
      lock.setAttribute("aria-pressed", locked)
      lock.setAttribute("aria-label", `lock ${name}`)
    })
    describe(this.big, state, place)
    const { kept } = state.row(place), quality = Number(state.quality(place).toFixed(3))
    put(this.facts, `${count(kept)} of ${count(layer.weights)}`)
    if (document.activeElement !== this.quality) this.quality.value = quality
    if (document.activeElement !== this.density) this.density.value = Number((100 * kept / layer.weights).toPrecision(3))
  }

  drawSpark(canvas, layer, density) {
    const curve = this.state.get("curves")?.[layer.name]
    if (!curve) return
    const { context, width, height } = prepared(canvas)
    const least = Math.log(Math.min(0.5, curve[curve.length - 1][0]))
    const low = Math.min(...curve.map(point => point[1])), top = Math.max(...curve.map(p => p[1]))
    const at = (d, accuracy) => [
      4 + (width - 8) * clamp(Math.log(Math.max(d, 1e-9)) / least, 0, 1),
      4 + (height - 8) * (1 - (accuracy - low) / Math.max(top - low, 0.01)),
    ]
    drawLine(context, curve.map(([d, accuracy]) => at(d, accuracy)), this.colours.curve)
    const [x, y] = at(density, onCurve(curve, density))
    context.beginPath()
    context.arc(x, y, 3.5, 0, 7)
    context.fillStyle = this.colours.limit
    context.fill()
  }

  // ------------------------------------------------------------------------- the large picture

  scale() {
    const { end } = this.bars(this.state.selected, BIG)
    return { left: MARGIN.left, right: sizeOf(this.big).width - MARGIN.right, end }
  }

  drawBig() {
    const { state, colours } = this, place = state.selected, layer = state.layers[place]
    const row = state.row(place), quality = state.quality(place), density = row.kept / layer.weights
    put(this.title, layer.name)
    const { context, width, height } = prepared(this.big)
    const { columns, end } = this.bars(place, BIG), { left, right } = this.scale()
    const curve = state.get("curves")?.[layer.name]
    const top = MARGIN.top + (curve ? CURVE : 0), bottom = height - MARGIN.bottom
    const at = q => left + ((right - left) * clamp(q, 0, end)) / end, x = at(quality)
    drawBars(context, columns, { x: left, y: top, width: right - left, height: bottom - top, cut: x,
      colours, hatch: true })
    this.drawKept(context, { at, left, right, top, bottom, end, place })
    if (curve) this.drawCurve(context, curve, { at, left, right, end, place, density, x })
    this.drawAxis(context, layer, { at, left, right, bottom, end })
    drawThreshold(context, x, MARGIN.top - 8, bottom, colours, document.activeElement === this.big)
    const nearEnd = x > (left + right) / 2
    const kept = density < 1 ? percent(density) : "all"
    const label = quality > 0 ? `${quality.toFixed(2)} σ: ${kept} kept` : `${kept} kept: drag to prune`
    drawText(context, label, nearEnd ? x - 12 : x + 12, MARGIN.top - 8, colours.ink,
      { align: nearEnd ? "right" : "left", size: 13, bold: true })
    this.big.dataset.quality = quality
  }

  // The fraction of weights at or above each threshold.
  drawKept(context, { at, left, right, top, bottom, end, place }) {
    const { state, colours } = this, layer = state.layers[place], counts = state.countsOf(place)
    const y = density => bottom - (bottom - top) * density
    const places = []
    for (let px = left; px <= right; px += 3) {
      const q = ((px - left) / (right - left)) * end
      places.push([px, y(keptAt(layer, counts, q) / layer.weights)])
    }
    drawLine(context, places, colours.ink, 1.25)
    for (const density of [0, 0.5, 1])
      drawText(context, `${100 * density}%`, right + 6, y(density) + 4, colours.faint)
    context.save()
    context.translate(right + 54, (top + bottom) / 2)
    context.rotate(-Math.PI / 2)
    drawText(context, "kept (line)", 0, 0, colours.faint, { align: "center" })
    context.restore()
    const quality = state.quality(place)
    context.beginPath()
    context.arc(at(quality), y(state.row(place).kept / layer.weights), 4, 0, 7)
    context.fillStyle = colours.ink
    context.fill()
  }

  // Accuracy when this layer alone is pruned, over the same axis as the weights.
  drawCurve(context, curve, { at, left, right, end, place, density, x }) {
    const { state, colours } = this, layer = state.layers[place], counts = state.countsOf(place)
    const top = MARGIN.top + 4, bottom = MARGIN.top + CURVE - 22
    const low = Math.min(...curve.map(point => point[2])), most = Math.min(1, Math.max(...curve.map(p => p[3])))
    const y = accuracy => bottom - ((bottom - top) * (accuracy - low)) / Math.max(most - low, 0.01)
    const places = []
    for (let px = left; px <= right; px += 4) {
      const kept = keptAt(layer, counts, ((px - left) / (right - left)) * end) / layer.weights
      if (kept < curve[curve.length - 1][0]) break
      places.push([px, y(onCurve(curve, kept))])
    }
    drawLine(context, [[left, bottom + 6], [right, bottom + 6]], colours.line, 1)
    drawLine(context, places, colours.curve, 2)
    drawText(context, "accuracy, this layer alone", right, top + 10, colours.curve, { align: "right" })
    drawText(context, percent(most), right + 6, top + 8, colours.faint)
    drawText(context, percent(low), right + 6, bottom + 4, colours.faint)
    context.beginPath()
    context.arc(x, y(onCurve(curve, density)), 4, 0, 7)
    context.fillStyle = colours.curve
    context.fill()
  }

  drawAxis(context, layer, { at, left, right, bottom, end }) {
    const { colours } = this
    drawLine(context, [[left, bottom + 0.5], [right, bottom + 0.5]], colours.faint, 1)
    const step = [0.25, 0.5, 1, 2, 5, 10, 20, 50, 100].find(one => end / one <= 8) ?? 200
    for (let q = 0; q <= end + 1e-9; q += step) {
      drawLine(context, [[at(q), bottom], [at(q), bottom + 4]], colours.faint, 1)
      const text = q === 0 ? "0" : `${Number(q.toFixed(2))} σ`
      drawText(context, text, at(q), bottom + 17, colours.faint, { align: "center" })
    }
    drawText(context, `|w|   σ = ${layer.sigma.toPrecision(3)}`, right, bottom + 31, colours.faint,
      { align: "right" })
  }
}
