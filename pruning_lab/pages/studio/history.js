// The attempts of the demo, as the library's History has them: a later one is made from an earlier.

const WORST = 1000 // quality

export class History {
  constructor(layers) {
    this.layers = layers
    this.attempts = [{ number: 1, parent: null, line: "main", name: "", what: "as it came", settings: {} }]
    this.now = 1
    this.redos = {} // number of an attempt -> the child that redo goes to
    this.locks = new Set()
    this.drag = 0
  }

  get attempt() {
    return this.attempts[this.now - 1]
  }

  setting(layer) {
    return this.attempt.settings[layer] ?? { kind: "quality", amount: 0 }
  }

  // Moves of one drag, which have its number, are one attempt.
  set(kind, amounts, drag) {
    const settings = { ...this.attempt.settings }
    for (const [name, amount] of Object.entries(amounts)) {
      this.check(name, kind, amount)
      settings[name] = { kind, amount }
      if (kind === "quality" && amount === 0) delete settings[name]
    }
    const changes = { settings, what: summary(kind, amounts, this.layers.length), accuracy: null, drop: null }
    if (drag && drag === this.drag && !this.attempt.name) Object.assign(this.attempt, changes)
    else this.add(changes)
    this.drag = drag
  }

  check(name, kind, amount) {
    const names = this.layers.map(layer => layer.name)
    if (!names.includes(name)) throw new Error(`no layer "${name}"; there are ${names.join(", ")}`)
    if (this.locks.has(name)) throw new Error(`layer "${name}" is locked; unlock it first`)
    const most = kind === "density" ? 1 : WORST
    if (!(amount >= 0 && amount <= most)) throw new Error(`a ${kind} is a number, 0 to ${most}`)
  }

  add(changes) {
    const number = this.attempts.length + 1
    this.attempts.push({ ...this.attempt, number, parent: this.now, name: "", ...changes })
    this.go(number)
  }

  go(number) {
    if (!this.attempts[number - 1]) throw new Error(`attempts go from 1 to ${this.attempts.length}`)
    for (let child = number, parent; (parent = this.attempts[child - 1].parent); child = parent)
      this.redos[parent] = child
    this.now = number
    this.drag = 0
  }

  undo() {
    if (!this.attempt.parent) throw new Error("there is nothing to undo")
    this.go(this.attempt.parent)
  }

  redo() {
    if (!this.redos[this.now]) throw new Error("there is nothing to redo")
    this.go(this.redos[this.now])
  }

  branch(text) {
    const lines = new Set(this.attempts.map(attempt => attempt.line))
    const line = text || `line ${lines.size + 1}`
    if (lines.has(line)) throw new Error(`there is a line "${line}" already`)
    this.add({ line, what: `from attempt ${this.now}` })
  }

  // All settings as a text: fc1=1.4&fc2=8%
  get text() {
    return Object.entries(this.attempt.settings).map(([name, { kind, amount }]) =>
      `${name}=${kind === "density" ? `${100 * amount}%` : amount}`).join("&")
  }
}

function summary(kind, amounts, layers) {
  const names = Object.keys(amounts), texts = names.map(name => `${kind} ${+amounts[name].toPrecision(4)}`)
  if (names.length === layers && new Set(texts).size === 1) return `all layers: ${texts[0]}`
  return names.map((name, i) => `${name}: ${texts[i]}`).join(", ")
}
