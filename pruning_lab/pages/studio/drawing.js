// What is drawn on canvases: weights with their threshold, curves, pixels. Colours come from the CSS.

export function palette(element) {
  const style = getComputedStyle(element)
  const names = ["ink", "faint", "line", "ground", "kept", "gone", "limit", "noise", "curve"]
  return Object.fromEntries(names.map(name => [name, style.getPropertyValue(`--pl-${name}`).trim()]))
}

// Sizes in CSS pixels. To ask a canvas for its size costs a layout, so it is asked once, and then tells
// when it changes, by an event that rises to the view.
const sizes = new WeakMap()
let resizes // made with the first one: node, where the pure part is tested, has none

function resized(entries) {
  for (const { target } of entries) {
    const { width, height } = sizes.get(target), now = noted(target)
    if (now.width !== width || now.height !== height) target.dispatchEvent(new Event("pl-resize", { bubbles: true }))
  }
}

function noted(canvas) {
  sizes.set(canvas, { width: canvas.clientWidth, height: canvas.clientHeight })
  return sizes.get(canvas)
}

export function sizeOf(canvas) {
  if (sizes.has(canvas)) return sizes.get(canvas)
  resizes ??= new ResizeObserver(resized)
  resizes.observe(canvas)
  return noted(canvas)
}

// A context in CSS pixels, cleared, as sharp as the screen.
export function prepared(canvas) {
  const { width, height } = sizeOf(canvas)
  const ratio = window.devicePixelRatio || 1
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio)
    canvas.height = Math.round(height * ratio)
  }
  const context = canvas.getContext("2d")
  context.setTransform(ratio, 0, 0, ratio, 0, 0)
  context.clearRect(0, 0, width, height)
  return { context, width, height }
}

// Bars of equal width from x on; those left of `cut` are pruned: grey and hatched, not by colour alone.
export function drawBars(context, bars, { x, y, width, height, cut, colours, hatch }) {
  const most = Math.max(1, ...bars), wide = width / bars.length
  const outline = new Path2D()
  outline.moveTo(x, y + height)
  bars.forEach((n, i) => {
    const top = y + height - (height * n) / most
    outline.lineTo(x + i * wide, top)
    outline.lineTo(x + (i + 1) * wide, top)
  })
  outline.lineTo(x + width, y + height)
  outline.closePath()
  const within = (left, right, style) => {
    context.save()
    context.beginPath()
    context.rect(left, y, Math.max(0, right - left), height)
    context.clip()
    context.fillStyle = style
    context.fill(outline)
    context.restore()
  }
  within(cut, x + width, colours.kept)
  within(x, cut, colours.gone)
  if (hatch) within(x, cut, hatching(context, colours.noise))
}

// Diagonal lines as a pattern, which is filled faster than lines are drawn.
const patterns = new Map() // colour -> its tile

function hatching(context, colour) {
  if (!patterns.has(colour)) {
    const tile = new OffscreenCanvas(7, 7), lines = tile.getContext("2d")
    lines.globalAlpha = 0.5
    for (const at of [-7, 0, 7]) drawLine(lines, [[at - 1, 8], [at + 8, -1]], colour, 1)
    patterns.set(colour, tile)
  }
  return context.createPattern(patterns.get(colour), "repeat")
}

export function drawLine(context, places, colour, width = 1.5) {
  context.strokeStyle = colour
  context.lineWidth = width
  context.beginPath()
  places.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)))
  context.stroke()
}

export function drawText(context, text, x, y, colour, { align = "left", size = 12, bold = false } = {}) {
  context.font = `${bold ? "600 " : ""}${size}px system-ui, sans-serif`
  context.fillStyle = colour
  context.textAlign = align
  context.fillText(text, x, y)
}

// The place of a threshold, and its handle.
export function drawThreshold(context, x, top, bottom, colours, focused) {
  drawLine(context, [[x, top], [x, bottom]], colours.limit, 2)
  context.beginPath()
  context.arc(x, top, focused ? 8 : 6, 0, 7)
  context.fillStyle = colours.limit
  context.fill()
}

// Pixels (h, w, channels) of uint8 as they are.
export function drawPixels(canvas, bytes, [h, w, channels]) {
  canvas.width = w
  canvas.height = h
  const image = new ImageData(w, h)
  for (let i = 0; i < h * w; i++) {
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = bytes[channels === 3 ? 3 * i + c : i]
    image.data[4 * i + 3] = 255
  }
  canvas.getContext("2d").putImageData(image, 0, 0)
}

const channels = colour => {
  const hex = colour.replace("#", "")
  return [0, 2, 4].map(i => parseInt(hex.slice(i, i + 2), 16))
}

// Connections that each pixel still has: from the ground's colour to that of kept weights.
export function drawPixelMap(canvas, values, [h, w], colours) {
  const [from, to] = [channels(colours.ground), channels(colours.kept)]
  const bytes = new Uint8Array(3 * h * w)
  for (let i = 0; i < h * w; i++)
    for (let c = 0; c < 3; c++) bytes[3 * i + c] = from[c] + ((to[c] - from[c]) * values[i]) / 255
  drawPixels(canvas, bytes, [h, w, 3])
}

// Filters (n, h, w, c) in rows of `across`; red below zero, blue above, the ground where pruned.
export function drawFilters(canvas, values, [n, h, w, c], across, colours) {
  const rows = Math.ceil(n / across), wide = across * (w + 1) - 1, high = rows * (h + 1) - 1
  const bytes = new Uint8Array(3 * wide * high)
  const [ground, above, below, line] = [colours.ground, colours.kept, colours.limit, colours.line].map(channels)
  for (let i = 0; i < wide * high; i++) bytes.set(line, 3 * i)
  let most = 1e-12
  for (const value of values) most = Math.max(most, Math.abs(value))
  for (let f = 0; f < n; f++)
    for (let y = 0; y < h; y++)
      for (let x = 0; x < w; x++) {
        const at = 3 * ((Math.floor(f / across) * (h + 1) + y) * wide + (f % across) * (w + 1) + x)
        for (let k = 0; k < 3; k++) {
          const value = values[((f * h + y) * w + x) * c + (c === 3 ? k : 0)]
          const hue = value > 0 ? above : below
          bytes[at + k] = c === 3
            ? 127.5 + (127.5 * value) / most
            : ground[k] + (hue[k] - ground[k]) * Math.sqrt(Math.abs(value) / most)
        }
      }
  drawPixels(canvas, bytes, [high, wide, 3])
}
