// What pruning costs and leaves: lost images, classes, the first layer, the network as blocks.

import { drawFilters, drawPixelMap, drawPixels, drawText, palette, prepared } from "./drawing.js"
import { h, put, s } from "./elements.js"
import { clamp, count, percent, points } from "./numbers.js"

const LEAST = 1e-3 // density at which a block of the network is empty

// Filters in a row: about twice as many as rows, and no gap in the last one if that can be.
function across(n) {
  const wish = Math.ceil(Math.sqrt(2 * n))
  return [...Array(n).keys()].map(i => i + 1).filter(i => n % i === 0)
    .find(i => i >= wish && i <= 2 * wish) ?? wish
}

export class Losses {
  constructor(state) {
    this.state = state
    this.lostTitle = h("b")
    this.lost = h("canvas", { class: "pl-lost", role: "img", onpointermove: event => this.name(event) })
    this.tile = h("canvas")
    this.classes = s("svg", { class: "pl-classes", role: "img",
      "aria-label": "change of accuracy for each class, in points" })
    this.firstTitle = h("b")
    this.first = h("canvas", { class: "pl-first" })
    this.network = h("canvas", { class: "pl-network", role: "img" })
    const part = (name, title, ...children) => h("section", { class: `pl-part ${name}` }, title, ...children)
    this.parts = [
      part("pl-lost-part", this.lostTitle, this.lost),
      part("pl-classes-part", h("b", {}, "Change per class, points"), this.classes),
    ]
    this.firstPart = part("pl-first-part", this.firstTitle, this.first)
    this.blocks = part("pl-network-part", h("b", {}, "The network: filled is kept (logarithmic)"),
      this.network)
  }

  draw(names) {
    const { colours } = this
    const changed = names.has("losses") || names.has("pictures")
    if (changed || names.has("theme")) this.drawLost(colours)
    if (changed) this.drawClasses()
    const { layers, rows } = this.state
    this.network.setAttribute("aria-label", layers.map((layer, i) =>
      `${layer.name} ${percent(rows[i].kept / layer.weights)}`).join(", "))
    if (names.has("first") || names.has("first_values") || names.has("theme")) this.drawFirst(colours)
  }

  // All on one canvas: a drag changes them often, and each canvas of its own costs a frame a millisecond.
  drawLost(colours) {
    const losses = this.state.get("losses") ?? {}, bytes = this.state.get("pictures")
    const lost = `${losses.lost} ${losses.lost === 1 ? "image" : "images"} lost`
    const title = losses.n ? `${lost}, ${losses.won} won of ${count(losses.n)}` : "Images lost"
    put(this.lostTitle, title)
    this.lost.classList.toggle("pl-waiting", losses.final === false)
    const { context, width, height } = prepared(this.lost)
    const side = height > 200 ? 62 : 42, wide = side + 6, high = side + 19
    const columns = Math.max(1, Math.floor((width + 6) / wide)), down = Math.floor((height + 4) / high)
    const [tall, broad, channels] = losses.side ?? [0, 0, 1], size = tall * broad * channels
    const scale = side / Math.max(tall, broad)
    const there = size ? Math.floor((bytes?.byteLength ?? 0) / size) : 0
    const shown = (losses.shown ?? []).slice(0, Math.min(there, columns * down))
    this.tiles = { wide, high, columns, shown }
    context.imageSmoothingEnabled = scale < 1
    context.strokeStyle = colours.line
    shown.forEach(({ before, after }, i) => {
      const x = (i % columns) * wide, y = Math.floor(i / columns) * high
      drawPixels(this.tile, new Uint8Array(bytes.buffer, bytes.byteOffset + i * size, size), losses.side)
      context.drawImage(this.tile, x, y, scale * broad, scale * tall)
      context.strokeRect(x + 0.5, y + 0.5, scale * broad - 1, scale * tall - 1)
      drawText(context, `${before} → ${after}`, x + side / 2, y + side + 13, colours.ink, { align: "center", size: 11 })
    })
    const says = shown.map(({ index, before, after }) => `image ${index}: ${before} → ${after}`).join(", ")
    this.lost.setAttribute("aria-label", says || "no image lost")
  }

  name({ offsetX, offsetY }) {
    const { wide, high, columns, shown } = this.tiles, column = Math.floor(offsetX / wide)
    const one = column < columns ? shown[Math.floor(offsetY / high) * columns + column] : undefined
    this.lost.title = one ? `image ${one.index}: label ${one.label}` : ""
  }

  drawClasses() {
    const rows = this.state.get("losses")?.classes ?? []
    const left = 40, high = 76, top = 8, wide = clamp(260 / Math.max(rows.length, 1), 12, 26)
    const least = Math.min(-0.001, ...rows.map(row => -row.drop.high))
    const most = Math.max(0.001, ...rows.map(row => -row.drop.low))
    const y = change => top + (high * (most - change)) / (most - least)
    const right = left + wide * rows.length
    this.classes.setAttribute("viewBox", `0 0 ${Math.max(right + 4, 60)} ${top + high + 22}`)
    this.classes.style.maxWidth = `${1.3 * Math.max(right + 4, 60)}px`
    const line = (x1, x2, y1, y2) => s("line", { x1, x2, y1, y2, class: "pl-interval" })
    const word = (x, at, text, anchor) => s("text", { x, y: at, class: "pl-axis", "text-anchor": anchor }, text)
    const bars = rows.map((row, i) => {
      const x = left + wide * (i + 0.5), change = -row.drop.value
      const noise = row.drop.low <= 0 && 0 <= row.drop.high
      return s("g", {}, s("title", {}, `class ${row.label}: ${points(row.drop.value)} points, ${row.n} images`),
        s("rect", { x: x - wide / 3, width: (2 * wide) / 3, y: Math.min(y(0), y(change)),
          height: Math.abs(y(change) - y(0)),
          class: noise ? "pl-noise" : change < 0 ? "pl-worse" : "pl-better" }),
        line(x, x, y(-row.drop.high), y(-row.drop.low)), word(x, top + high + 16, row.label, "middle"))
    })
    this.classes.replaceChildren(line(left, right, y(0), y(0)),
      word(left - 5, y(least) + 4, points(-least), "end"), word(left - 5, y(most) + 4, points(-most), "end"),
      ...bars)
  }

  drawFirst(colours) {
    const first = this.state.get("first") ?? {}, bytes = this.state.get("first_values")
    this.first.parentElement.hidden = !first.kind
    if (!first.kind || !bytes?.byteLength) return
    if (first.kind === "pixels") {
      put(this.firstTitle, `${first.seen} of ${first.shape[0] * first.shape[1]} pixels seen`)
      drawPixelMap(this.first, new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength), first.shape, colours)
      this.first.title = `connections of each pixel, at most ${first.most} of ${first.of}`
    } else {
      put(this.firstTitle, "Filters of the first layer")
      const copy = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength)
      drawFilters(this.first, new Float32Array(copy), first.shape, across(first.shape[0]), colours)
      this.first.title = "blue is positive, red negative, background pruned"
    }
  }

  // A block a layer: its width is its FLOPs, the filled part what is kept, on a logarithmic scale.
  drawNetwork(names) {
    if (!this.colours || names.has("theme")) this.colours = palette(this.blocks)
    const { colours } = this
    const { layers, rows } = this.state
    const { context, width, height } = prepared(this.network)
    if (!width) return
    const work = layers.map(layer => Math.sqrt(layer.flops ?? layer.weights))
    const least = 0.35 * (width / layers.length), gap = layers.length > 10 ? 2 : 6
    const total = work.reduce((sum, one) => sum + one, 0), room = width - gap * (layers.length - 1)
    const wide = work.map(one => least + ((room - least * layers.length) * one) / total)
    const bottom = height - 18, high = bottom - 18
    let x = 0
    layers.forEach((layer, i) => {
      const density = rows[i].kept / layer.weights
      const filled = density > 0 ? clamp(1 - Math.log(density) / Math.log(LEAST), 0.02, 1) : 0
      context.fillStyle = colours.gone
      context.fillRect(x, bottom - high, wide[i], high)
      context.fillStyle = colours.kept
      context.fillRect(x, bottom - high * filled, wide[i], high * filled)
      if (wide[i] > 26) {
        const middle = x + wide[i] / 2
        const text = wide[i] > 44 ? percent(density) : `${Math.round(100 * density)}%`
        drawText(context, text, middle, bottom - high - 5, colours.ink, { align: "center", size: 11 })
        drawText(context, layer.label, middle, bottom + 13, colours.faint, { align: "center", size: 11 })
      }
      x += wide[i] + gap
    })
  }
}
