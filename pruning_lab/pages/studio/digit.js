// A drawn digit as MNIST's digits were made: its box scaled to 20 x 20 pixels, its centre of mass put
// in the middle of 28 x 28. Strokes are lists of points [x, y], in pixels. No page needed.

import { SIDE } from "./network.js"

const BOX = 20, MIDDLE = 14 // where MNIST's centres of mass are, on average
const RADIUS = 1.2, EDGE = 1.2 // of the brush, and the width of its soft edge
const LARGEST = 4 // times as large at most: a dot stays a dot

// Grey values 0 ... 255 of strokes as they are.
export function inked(strokes) {
  const pixels = new Uint8Array(SIDE * SIDE)
  for (const stroke of strokes)
    stroke.forEach((point, i) => brush(pixels, stroke[Math.max(0, i - 1)], point))
  return pixels
}

// A straight line with the brush; where lines cross, the darker value stays.
function brush(pixels, [x1, y1], [x2, y2]) {
  const far = RADIUS + EDGE, [dx, dy] = [x2 - x1, y2 - y1], length = dx * dx + dy * dy
  const low = (a, b) => Math.max(0, Math.ceil(Math.min(a, b) - far))
  const high = (a, b) => Math.min(SIDE - 1, Math.floor(Math.max(a, b) + far))
  for (let y = low(y1, y2); y <= high(y1, y2); y++)
    for (let x = low(x1, x2); x <= high(x1, x2); x++) {
      const along = length ? Math.min(1, Math.max(0, ((x - x1) * dx + (y - y1) * dy) / length)) : 0
      const distance = Math.hypot(x - x1 - along * dx, y - y1 - along * dy)
      const grey = 255 * Math.min(1, Math.max(0, (RADIUS - distance) / EDGE + 0.5))
      pixels[y * SIDE + x] = Math.max(pixels[y * SIDE + x], grey)
    }
}

// Grey values of strokes in MNIST's place and size. The brush keeps its width, as a pen does.
export function centred(strokes) {
  const points = strokes.flat()
  if (!points.length) return inked([])
  const ends = [0, 1].map(axis => points.map(point => point[axis]))
    .map(values => [Math.min(...values), Math.max(...values)])
  const longest = Math.max(...ends.map(([low, high]) => high - low), 1e-9)
  const scale = Math.min(LARGEST, (BOX - 2 * RADIUS) / longest)
  let placed = moved(strokes, ([x, y]) => [x, y].map((value, axis) =>
    MIDDLE + scale * (value - (ends[axis][0] + ends[axis][1]) / 2)))
  const [shiftX, shiftY] = centre(inked(placed)).map(value => MIDDLE - value)
  placed = moved(placed, ([x, y]) => [x + shiftX, y + shiftY])
  return inked(placed)
}

const moved = (strokes, change) => strokes.map(stroke => stroke.map(change))

function centre(pixels) {
  let [x, y, total] = [0, 0, 0]
  pixels.forEach((grey, i) => {
    x += grey * (i % SIDE)
    y += grey * Math.floor(i / SIDE)
    total += grey
  })
  return [x / total, y / total]
}
