// All attempts: a chart and a list to go back by a click; and the task that runs, in sight.

import { button, h, put, s } from "./elements.js"
import { clamp, compression, percent, points, seconds } from "./numbers.js"

const STEPS = [1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0005, 0.0002, 0.0001]
const LEFT = 50, RIGHT = 12, TOP = 10, BOTTOM = 32 // margins of the chart

// The ends of the axes. An attempt that lost a fifth of the best accuracy does not stretch them.
export function limits(attempts, now, searched) {
  const measured = attempts.filter(a => a.accuracy)
  const best = Math.max(0, ...measured.map(a => a.accuracy.value))
  const shown = measured.filter(a => a.accuracy.value > 0.8 * best || a.number === now)
  const found = searched.filter(([, accuracy]) => accuracy > 0.8 * best)
  const low = Math.min(...shown.map(a => a.accuracy.low), ...found.map(p => p[1]), 1)
  const high = Math.max(...shown.map(a => a.accuracy.high), ...found.map(p => p[1]), 0)
  const sparsest = Math.min(...shown.map(a => a.density), ...found.map(p => p[0]), 1)
  const room = Math.max(0.004, 0.06 * (high - low))
  return {
    least: STEPS.find(x => x <= Math.min(0.2, 0.8 * sparsest)) ?? 0.0001,
    low: measured.length ? Math.max(0, low - room) : 0,
    high: measured.length ? Math.min(1, high + room) : 1,
  }
}

export class Trail {
  constructor(state) {
    this.state = state
    this.svg = s("svg", { class: "pl-trail", role: "img",
      "aria-label": "accuracy against weights kept, a mark for each attempt" })
    this.list = h("div", { class: "pl-attempts", role: "list" })
    this.text = h("span", { class: "pl-task-text" })
    this.left = h("span", { class: "pl-faint" })
    this.bar = h("progress", { max: 1, "aria-label": "progress" })
    this.lines = s("svg", { viewBox: "0 0 400 90", class: "pl-training", role: "img",
      "aria-label": "loss and accuracy of the batches trained on" })
    this.stop = button("Stop", "end this task; what was learnt stays", () => state.ask({ do: "stop" }),
      "pl-stop")
    this.task = h("div", { class: "pl-task" }, h("div", { class: "pl-bar" }, this.text,
      h("span", { class: "pl-space" }), this.left, this.stop), this.bar, this.lines)
    this.element = h("section", { class: "pl-history", "aria-label": "attempts" }, this.task,
      h("div", { class: "pl-bar" }, h("b", {}, "Attempts"), h("span", { class: "pl-faint" },
        "◆ now · ● no other beats it · click to go back")), this.svg, this.list)
  }

  // A drag tells `now` many times a second: what follows from the attempts stays as it is.
  draw(names) {
    const { number } = this.state.get("now"), gone = number !== this.number
    this.number = number
    const searches = names.has("progress") && this.state.get("progress")?.task === "scanning"
    if (names.has("progress") || names.has("now")) this.drawTask()
    if (gone || searches || names.has("attempts") || names.has("theme")) this.drawChart()
    if (gone || names.has("attempts")) this.drawList()
  }

  drawTask() {
    const progress = this.state.get("progress") ?? {}, running = Boolean(this.state.get("now").busy)
    this.task.hidden = !running
    if (!running) return
    put(this.text, progress.text || this.state.get("now").status)
    put(this.left, progress.left ? `${seconds(progress.left)} left` : "")
    if (progress.done == null) this.bar.removeAttribute("value")
    else this.bar.value = progress.done
    const trained = progress.task === "retraining" ? progress.points ?? [] : []
    this.lines.style.display = trained.length > 1 ? "" : "none"
    if (trained.length > 1) this.drawTraining(trained)
  }

  drawTraining(trained) {
    const last = trained[trained.length - 1], most = Math.max(...trained.map(p => p[1]), 1e-9)
    const low = Math.min(...trained.map(p => p[2])), top = Math.max(...trained.map(p => p[2]))
    const x = epoch => 4 + (276 * epoch) / Math.max(last[0], 1e-9)
    const line = (f, name) => s("polyline", { class: name,
      points: trained.map(p => `${x(p[0]).toFixed(1)},${f(p).toFixed(1)}`).join(" ") })
    const word = (y, text, name) => s("text", { x: 288, y, class: name }, text)
    this.lines.replaceChildren(
      line(p => 86 - 80 * (p[1] / most), "pl-loss"),
      line(p => 86 - 80 * ((p[2] - low) / Math.max(top - low, 0.01)), "pl-learnt"),
      word(22, `loss ${last[1].toFixed(3)}`, "pl-loss-text"),
      word(44, `accuracy ${percent(last[2])}`, "pl-learnt-text"),
      word(66, "on batches", "pl-axis"))
  }

  drawChart() {
    const { state } = this, attempts = state.get("attempts") ?? [], now = state.get("now").number
    const progress = state.get("progress") ?? {}
    const searched = progress.task === "scanning" ? progress.points ?? [] : []
    const { least, low, high } = limits(attempts, now, searched)
    const { width, height } = this.svg.getBoundingClientRect()
    this.right = width - RIGHT
    this.bottom = height - BOTTOM
    const x = d => LEFT + (this.right - LEFT) * clamp(Math.log(Math.max(d, least)) / Math.log(least), 0, 1)
    const y = a => this.bottom - (this.bottom - TOP) * clamp((a - low) / (high - low), 0, 1)
    const parts = [...this.axes(x, y, least, low, high)]
    for (const [density, accuracy] of searched)
      parts.push(s("circle", { cx: x(density), cy: y(accuracy), r: 2, class: "pl-searched" }))
    const measured = attempts.filter(a => a.accuracy)
    const best = measured.filter(a => a.best).sort((a, b) => b.density - a.density)
    parts.push(s("polyline", { class: "pl-front",
      points: best.map(a => `${x(a.density)},${y(a.accuracy.value)}`).join(" ") }))
    const order = measured.filter(a => a.number !== now).concat(measured.filter(a => a.number === now))
    for (const attempt of order) parts.push(...this.mark(attempt, x, y, attempt.number === now))
    this.svg.replaceChildren(...parts, ...this.labels(order, x, y))
  }

  *axes(x, y, least, low, high) {
    const ends = { x1: LEFT, x2: this.right }
    for (const share of [0, 0.5, 1]) {
      const value = low + share * (high - low)
      yield s("line", { ...ends, y1: y(value), y2: y(value), class: "pl-grid" })
      yield s("text", { x: LEFT - 6, y: y(value) + 4, class: "pl-axis", "text-anchor": "end" },
        `${(100 * value).toFixed(high - low < 0.05 ? 1 : 0)}%`)
    }
    const every = Math.ceil(STEPS.filter(step => step >= least).length / 7)
    for (const [i, step] of STEPS.filter(one => one >= least).entries())
      if (i % every === 0)
        yield s("text", { x: x(step), y: this.bottom + 15, class: "pl-axis",
          "text-anchor": "middle" }, `${Number((100 * step).toPrecision(2))}%`)
    yield s("text", { x: (LEFT + this.right) / 2, y: this.bottom + 28, class: "pl-axis",
      "text-anchor": "middle" }, "weights kept (logarithmic)")
    const { dense } = this.state.get("now")
    if (dense)
      yield s("rect", { x: LEFT, width: this.right - LEFT, y: y(dense.high),
        height: Math.max(1, y(dense.low) - y(dense.high)), class: "pl-dense" })
  }

  *mark(attempt, x, y, here) {
    const { accuracy, density, number } = attempt, px = x(density), py = y(accuracy.value)
    yield s("line", { x1: px, x2: px, y1: y(accuracy.low), y2: y(accuracy.high), class: "pl-interval" })
    const shape = here
      ? s("rect", { x: px - 6, y: py - 6, width: 12, height: 12,
        transform: `rotate(45 ${px} ${py})`, class: "pl-now" })
      : s("circle", { cx: px, cy: py, r: 5, class: attempt.best ? "pl-best" : "pl-other" })
    shape.append(s("title", {}, this.words(attempt)))
    shape.addEventListener("click", () => this.go(number))
    yield shape
  }

  // Beside each mark, the current one first; where another name is in the way, lower.
  *labels(order, x, y) {
    const taken = []
    for (const { name, density, accuracy } of order.filter(a => a.name).reverse()) {
      const px = x(density), isEnd = px > this.right - 110, wide = 6 * name.length
      const left = isEnd ? px - 9 - wide : px + 9, crosses = one => left < one.right && left + wide > one.left
      let top = y(accuracy.value) - 7
      for (const one of taken.sort((a, b) => a.top - b.top))
        if (crosses(one) && Math.abs(top - one.top) < 12) top = one.top + 12
      taken.push({ left, right: left + wide, top })
      yield s("text", { x: isEnd ? px - 9 : px + 9, y: top, class: "pl-axis",
        "text-anchor": isEnd ? "end" : "start" }, name)
    }
  }

  words({ number, name, what, density, accuracy }) {
    const measured = accuracy ? `, ${(100 * accuracy.value).toFixed(2)}%` : ""
    return `attempt ${number}${name ? ` (${name})` : ""}: ${what}; ${percent(density)} kept${measured}`
  }

  go(number) {
    this.state.forget()
    this.state.ask({ do: "go", number })
  }

  drawList() {
    const attempts = this.state.get("attempts") ?? [], now = this.state.get("now").number
    const lines = new Set(attempts.map(a => a.line)).size > 1
    const rows = attempts.slice().reverse().map(a => {
      const here = a.number === now
      const what = [lines ? `${a.line}: ` : "", a.name ? `${a.name} · ` : "", a.what].join("")
      const cell = (name, text) => h("span", { class: name }, text)
      return h("button", { type: "button", class: `pl-attempt${here ? " pl-here" : ""}`, role: "listitem",
        "data-number": a.number, "aria-current": here, title: this.words(a),
        onclick: () => this.go(a.number) },
      cell("pl-mark", here ? "◆" : a.best ? "●" : ""), cell("pl-number", String(a.number)),
      cell("pl-what", what), cell("pl-kept", percent(a.density)),
      cell("pl-times", compression(a.density)),
      cell("pl-result", a.accuracy ? `${(100 * a.accuracy.value).toFixed(2)}%` : "–"),
      cell("pl-change", a.drop ? points(a.drop.value) : ""))
    })
    const scrolled = this.list.scrollTop
    this.list.replaceChildren(...rows)
    this.list.scrollTop = scrolled
  }
}
