// LeNet-300-100 in int8: which weights stay, and what the network then answers. No page needed.

export const SIDE = 28
const PIXELS = SIDE * SIDE
const LEVELS = 127 // a weight is -127 ... 127 times the scale of its layer
const Z = 1.959964 // two-sided 95 % of a normal distribution

// What Python packed: weights and images as bytes, everything else as JSON.
export async function unpacked(data) {
  const packed = Uint8Array.from(atob(data.packed), letter => letter.charCodeAt(0))
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"))
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer())
  let place = 0
  const next = count => bytes.subarray(place, (place += count))
  const layers = data.layers.map(about => new Layer(about, next(about.shape[0] * about.shape[1])))
  return { ...data, layers, images: next(data.labels.length * PIXELS) }
}

// One layer. Its weights stand in one fixed order: the largest first, of equal ones the earlier
// position; zeros are gone. What stays at any threshold or density is then the first `kept` of it.
class Layer {
  constructor(about, bytes) {
    Object.assign(this, about) // name, shape [out, in], scale, sigma, step
    this.bias = Float64Array.from(about.bias)
    this.values = new Int8Array(bytes)
    this.size = this.values.length
    this.atLeast = new Uint32Array(LEVELS + 2) // how many weights have this level or a larger one
    for (const value of this.values) this.atLeast[Math.abs(value)]++
    for (let level = LEVELS; level >= 0; level--) this.atLeast[level] += this.atLeast[level + 1]
    this.alive = this.atLeast[1]
    this.order = new Uint32Array(this.alive)
    const next = this.atLeast.slice(1)
    this.values.forEach((value, place) => {
      if (value) this.order[next[Math.abs(value)]++] = place
    })
    this.cut = { kept: -1, weights: new Float32Array(this.size) }
    this.dense = { kept: -1, weights: new Float32Array(this.size) }
  }

  // What a setting comes to. The threshold is compared in float32, as torch compares it.
  choose({ kind, amount }) {
    let kept = this.alive, threshold = 0
    if (kind === "quality") {
      threshold = amount * this.sigma
      if (threshold > 0) kept = this.counted(threshold)
    } else if (halfToEven(amount * this.size) < this.alive) {
      kept = halfToEven(amount * this.size)
      threshold = kept ? this.magnitude(this.values[this.order[kept - 1]]) : Infinity
    }
    return { kept, threshold, quality: threshold / this.sigma }
  }

  counted(threshold) {
    let level = 1
    while (level <= LEVELS && this.magnitude(level) < Math.fround(threshold)) level++
    return this.atLeast[level]
  }

  magnitude(level) {
    return Math.fround(Math.abs(level) * this.scale)
  }

  // Number k is how many stay at the quality k * step; the last is 0.
  grid() {
    const counts = [this.alive]
    while (counts[counts.length - 1])
      counts.push(this.counted(Number((counts.length * this.step).toFixed(10)) * this.sigma))
    return counts
  }

  // (in, out), zero where pruned. The latest are remembered, and those of the dense layer.
  weights(kept) {
    const [outputs, inputs] = this.shape, own = kept === this.alive ? this.dense : this.cut
    const { weights } = own
    if (own.kept !== kept) {
      weights.fill(0)
      for (const place of this.order.subarray(0, kept)) {
        const from = place % inputs
        weights[from * outputs + (place - from) / inputs] = this.values[place] * this.scale
      }
      own.kept = kept
    }
    return weights
  }
}

function halfToEven(x) {
  const whole = Math.round(x)
  return x % 1 === 0.5 && whole % 2 ? whole - 1 : whole
}

// Some images, and the sums of the first layer for them. The sums are of integers, so they are exact
// however often weights come and go: a move costs as much as there are weights between two thresholds.
export class Batch {
  constructor(network, images) {
    this.network = network
    this.n = images.length / PIXELS
    this.starts = new Uint32Array(PIXELS + 1) // of each pixel's list: the images where it is not 0
    const where = [], ink = []
    for (let pixel = 0; pixel < PIXELS; pixel++) {
      for (let image = 0; image < this.n; image++) {
        const value = images[image * PIXELS + pixel]
        if (value) where.push(image), ink.push(value)
      }
      this.starts[pixel + 1] = where.length
    }
    this.where = Uint16Array.from(where)
    this.ink = Uint8Array.from(ink)
    this.sums = new Int32Array(this.outputs * this.n) // (out, n): weights times pixels
    this.totals = new Int32Array(this.outputs) // weights alone: the background is not 0 but -mean
    this.kept = 0
  }

  get outputs() {
    return this.network.layers[0].shape[0]
  }

  // The class named for each image, where each layer keeps so many weights.
  answers(kept) {
    const answers = new Uint8Array(this.n)
    for (let image = 0; image < this.n; image++) {
      const logits = this.logits(kept, image)
      for (let k = 1; k < logits.length; k++) if (logits[k] > logits[answers[image]]) answers[image] = k
    }
    return answers
  }

  logits(kept, image) {
    this.keep(kept[0])
    const { layers, mean, std } = this.network, [first, ...others] = layers
    let inputs = first.bias.map((bias, i) => // (pixel - mean) / std, with both folded in
      bias + (first.scale / std) * (this.sums[i * this.n + image] - mean * this.totals[i]))
    others.forEach((layer, i) => {
      inputs = afterRelu(inputs, layer.weights(kept[i + 1]), layer.bias)
    })
    return inputs
  }

  keep(kept) {
    if (kept < Math.abs(kept - this.kept)) { // less to add up again
      this.sums.fill(0)
      this.totals.fill(0)
      this.kept = 0
    }
    const sign = kept > this.kept ? 1 : -1, { order, values } = this.network.layers[0]
    const { n, starts, where, ink, sums, totals } = this, end = Math.max(kept, this.kept)
    for (let i = Math.min(kept, this.kept); i < end; i++) {
      const place = order[i], output = Math.floor(place / PIXELS), pixel = place - output * PIXELS
      const value = sign * values[place], first = output * n, last = starts[pixel + 1]
      totals[output] += value
      for (let at = starts[pixel]; at < last; at++) sums[first + where[at]] += value * ink[at]
    }
    this.kept = kept
  }
}

// Inputs below zero add nothing; weights (in, out).
function afterRelu(inputs, weights, bias) {
  const outputs = Float64Array.from(bias), wide = outputs.length
  for (let i = 0; i < inputs.length; i++) {
    const input = inputs[i], first = i * wide
    if (input > 0) for (let k = 0; k < wide; k++) outputs[k] += input * weights[first + k]
  }
  return outputs
}

// How many connections each pixel still has.
export function pixelMap(layer, kept) {
  const connections = new Uint32Array(PIXELS)
  for (const place of layer.order.subarray(0, kept)) connections[place % PIXELS]++
  const most = Math.max(...connections)
  const values = Uint8Array.from(connections, count => halfToEven((255 * count) / Math.max(1, most)))
  const about = { shape: [SIDE, SIDE], seen: connections.filter(Boolean).length, most }
  return { first: { kind: "pixels", ...about, of: layer.shape[0] }, values }
}

// ------------------------------------------------------------------------- what answers are worth

// What pruning changed for the images that were asked so far: answers before and after.
export function compared(labels, before, after) {
  const images = [...after.keys()]
  const lost = images.filter(i => before[i] === labels[i] && after[i] !== labels[i])
  const won = images.filter(i => before[i] !== labels[i] && after[i] === labels[i])
  const classes = [...new Set(images.map(i => labels[i]))].sort().map(label => {
    const own = list => list.filter(i => labels[i] === label).length
    return { label, n: own(images), drop: dropOf(own(lost), own(won), own(images)) }
  })
  const right = images.filter(i => after[i] === labels[i]).length
  return { accuracy: accuracyOf(right, after.length), drop: dropOf(lost.length, won.length, after.length),
    lost, won, classes }
}

// A fraction with its 95 % interval (Wilson's).
export function accuracyOf(right, n) {
  const value = right / n, middle = (value + (Z * Z) / (2 * n)) / (1 + (Z * Z) / n)
  const half = (Z / (1 + (Z * Z) / n)) * Math.sqrt((value * (1 - value)) / n + (Z * Z) / (4 * n * n))
  return { value, low: Math.max(0, Math.min(value, middle - half)),
    high: Math.min(1, Math.max(value, middle + half)), n }
}

// Accuracy lost, with its paired 95 % interval (Agresti and Min 2005).
function dropOf(lost, won, n) {
  const net = lost - won, middle = net / (n + 2)
  const half = (Z * Math.sqrt(lost + won + 1 - (net * net) / (n + 2))) / (n + 2)
  return { value: net / n, low: Math.max(-1, middle - half), high: Math.min(1, middle + half) }
}
