// The attempts of the demo, as the library's History has them: a later one is made from an earlier.

const ALL = { kind: "quality", amount: 0 } // every weight that is not zero stays

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
    return this.attempt.settings[layer] ?? ALL
  }

  set(kind, amounts, drag) {
    const asked = Object.entries(amounts).map(([name, amount]) => [name, { kind, amount }])
    this.step(Object.fromEntries(asked), drag)
  }

  // Another attempt. Moves of one drag, which have its number, are one.
  step(asked, drag = 0) {
    Object.entries(asked).forEach(([name, setting]) => this.check(name, setting))
    const settings = Object.fromEntries(Object.entries({ ...this.attempt.settings, ...asked })
      .filter(([, setting]) => !same(setting, ALL)))
    const changes = { settings, what: summary(asked, this.layers.length), accuracy: null, drop: null }
    if (drag && drag === this.drag && !this.attempt.name) Object.assign(this.attempt, changes)
    else this.add(changes)
    this.drag = drag
  }

  check(name, { kind, amount }) {
    const names = this.layers.map(layer => layer.name)
    if (!names.includes(name)) throw new Error(`no layer '${name}'; there are ${names.join(", ")}`)
    if (this.locks.has(name)) throw new Error(`layer '${name}' is locked; unlock it first`)
    const most = kind === "density" ? 1 : Number.MAX_VALUE
    if (amount >= 0 && amount <= most) return
    throw new Error(`a ${kind} is a number, 0 or more${most === 1 ? ", at most 1" : ""}; got ${amount}`)
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
    if (lines.has(line)) throw new Error(`there is a line '${line}' already`)
    this.add({ line, what: `from attempt ${this.now}` })
  }

  // All settings as a text: qualities, and densities after d: fc1=1.4&fc2=d0.05
  toText() {
    const { settings } = this.attempt
    return this.layers.filter(({ name }) => name in settings).map(({ name }) =>
      `${name}=${settings[name].kind === "density" ? "d" : ""}${settings[name].amount}`).join("&")
  }

  // A step to exactly these settings: other layers keep everything.
  fromText(text) {
    const asked = Object.fromEntries(this.layers.map(({ name }) => [name, ALL]))
    for (const part of text.trim().split("&").filter(Boolean)) {
      const [, name, density, amount] = part.match(/^([^=]+)=(d?)([\d.e+-]+)$/) ?? []
      if (!name) throw new Error(`settings are like fc1=1.4&fc2=d0.05; got '${part}'`)
      asked[name] = { kind: density ? "density" : "quality", amount: Number(amount) }
    }
    const changed = Object.entries(asked).filter(([name, setting]) => !same(setting, this.setting(name)))
    if (changed.length) this.step(Object.fromEntries(changed))
  }
}

const same = (a, b) => a.kind === b.kind && a.amount === b.amount

function summary(asked, layers) {
  const words = Object.values(asked).map(({ kind, amount }) => `${kind} ${Number(amount.toPrecision(4))}`)
  if (words.length === layers && new Set(words).size === 1) return `all layers: ${words[0]}`
  return Object.keys(asked).map((name, i) => `${name}: ${words[i]}`).join(", ")
}
