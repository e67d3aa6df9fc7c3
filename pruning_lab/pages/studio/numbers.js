// What a threshold leaves, from counts that were sent once; and numbers as text. No page needed.

// One Uint32Array a layer: number k is how many |w| are >= k * step * sigma, and not zero.
export function decodeCounts(bytes, layers) {
  const all = new Uint32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength))
  return layers.map(layer => all.subarray(layer.offset, layer.offset + layer.bins + 1))
}

export const clamp = (x, low, high) => Math.min(high, Math.max(low, x))

// A quality on the layer's grid, as the kernel writes it too: the decimal nearest to k * step.
export function onGrid(layer, quality) {
  const k = clamp(Math.round(quality / layer.step), 0, layer.bins)
  return Number((k * layer.step).toFixed(10))
}

export function keptAt(layer, counts, quality) {
  return counts[clamp(Math.round(quality / layer.step), 0, layer.bins)]
}

// The largest quality on the grid that keeps at least so many weights.
export function qualityKeeping(layer, counts, kept) {
  let low = 0, high = layer.bins
  while (low < high) {
    const middle = (low + high + 1) >> 1
    if (counts[middle] >= kept) low = middle
    else high = middle - 1
  }
  return onGrid(layer, low * layer.step)
}

// How far the picture of a layer reaches: 99.9 % of the weights, in sigma.
export function reach(layer, counts) {
  const far = qualityKeeping(layer, counts, Math.ceil(counts[0] / 1000)) + layer.step
  return Math.max(1, Math.min(far, layer.bins * layer.step))
}

// Weights in so many columns of equal width from 0 to `end`, as a histogram of |w| / sigma.
export function histogram(layer, counts, end, columns) {
  const at = x => {
    const place = clamp(x / layer.step, 0, layer.bins), k = Math.floor(place)
    const next = k < layer.bins ? counts[k + 1] : 0
    return counts[k] + (next - counts[k]) * (place - k)
  }
  return Array.from({ length: columns }, (_, i) =>
    at((i * end) / columns) - at(((i + 1) * end) / columns))
}

// Bits that say where the next kept weight is, if each stays with this probability.
function gapBits(density) {
  if (density <= 0 || density >= 1) return density <= 0 ? 0 : 1e-3
  const entropy = -density * Math.log2(density) - (1 - density) * Math.log2(1 - density)
  return entropy / density
}

const VALUE_BITS = 25.5 // of a float32 whose exponent is coded

// Bytes of a layer that keeps `kept`, scaled from what the kernel has measured for its own state.
export function bytesAt(layer, row, kept) {
  const own = n => n * (gapBits(n / layer.weights) + VALUE_BITS) / 8
  if (kept === row.kept) return row.bytes
  return Math.round(row.kept ? row.bytes * own(kept) / own(row.kept) : own(kept))
}

// Of the whole network: rows are {kept, bytes}, one a layer.
export function totals(layers, rows) {
  const sum = f => layers.reduce((total, layer, i) => total + f(layer, rows[i]), 0)
  const weights = sum(layer => layer.weights), kept = sum((_, row) => row.kept)
  const counted = layers.every(layer => layer.flops !== null)
  return {
    weights,
    kept,
    density: kept / Math.max(1, weights),
    bytes: sum((_, row) => row.bytes),
    flops: counted ? sum((layer, row) => layer.flops * row.kept / layer.weights) : null,
    denseFlops: counted ? sum(layer => layer.flops) : null,
  }
}

// The accuracy that a layer's own curve gives at a density; curves are [density, accuracy, ...].
export function onCurve(curve, density) {
  const x = Math.log(Math.max(density, 1e-9))
  for (let i = 1; i < curve.length; i++) {
    const [from, to] = [Math.log(curve[i - 1][0]), Math.log(Math.max(curve[i][0], 1e-9))]
    if (x >= to)
      return curve[i - 1][1] + (curve[i][1] - curve[i - 1][1]) * clamp((from - x) / (from - to || 1), 0, 1)
  }
  return curve.length ? curve[curve.length - 1][1] : null
}

// ------------------------------------------------------------------------------------- text

export const percent = x => `${(100 * x).toFixed(x > 0 && x < 0.00995 ? 2 : 1)}%`
const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 }) // made once: it is slow to make
export const count = n => whole.format(n)

export function size(n, unit) {
  const prefixes = ["", "k", "M", "G", "T"]
  let power = 0
  while (n >= 999.5 && power < prefixes.length - 1) [n, power] = [n / 1000, power + 1]
  return `${power === 0 || n >= 99.95 ? Math.round(n) : n.toFixed(1)} ${prefixes[power]}${unit}`
}

// A change of accuracy in points, from a drop: +0.10, −1.25.
export function points(drop) {
  const text = (100 * Math.abs(drop)).toFixed(2)
  return `${text === "0.00" ? "±" : drop > 0 ? "−" : "+"}${text}`
}

export const compression = density => density > 0 ? `${(1 / density).toFixed(density > 0.01 ? 1 : 0)}×` : "∞"

export function seconds(s) {
  return s < 60 ? `${Math.max(1, Math.round(s))} s` : `${Math.floor(s / 60)} min ${Math.round(s % 60)} s`
}
