// What a user can do, by what it is for: choose, retrain, history, take away.

import { button, h, put } from "./elements.js"

const input = (properties, name) => h("input", { ...properties, class: `pl-input ${name}` })
const group = (title, ...children) =>
  h("fieldset", { class: "pl-group" }, h("legend", {}, title), ...children)

export class Actions {
  constructor(state) {
    this.state = state
    const ask = request => () => state.ask(request())
    this.goal = h("select", { title: "a goal for the whole network", onchange: () => this.unit() },
      h("option", {}, "lose at most"), h("option", {}, "keep"))
    this.amount = input({ type: "number", min: 0, max: 100, step: "any", value: 0.5,
      title: "the goal's amount" }, "pl-amount")
    this.unitText = h("span", {}, "points")
    this.epochs = input({ type: "number", min: 1, step: 1, value: 1, title: "epochs to retrain" }, "pl-epochs")
    this.name = input({ type: "text", placeholder: "name", title: "a name for this attempt, or for a line "
      + "of attempts" }, "pl-name-input")
    this.path = input({ type: "text", value: "plan.json", title: "the file of the plan" }, "pl-path")
    this.string = input({ type: "text", spellcheck: false, placeholder: "settings", title: "all settings as "
      + "a text to send; paste one here and press Enter", onchange: ask(() => ({ do: "string",
      text: this.string.value })) }, "pl-string")
    this.buttons = {
      suggest: button("Suggest", "search densities of all unlocked layers for this goal", ask(() => {
        const amount = this.amount.valueAsNumber
        return { do: "suggest", ...(this.goal.selectedIndex ? { density: amount / 100 } : { max_drop: amount }) }
      })),
      retrain: button("Retrain", "train what is kept; pruned weights stay zero", ask(() => ({
        do: "retrain", epochs: this.epochs.valueAsNumber }))),
      undo: button("↶ Undo", "back to the attempt before", ask(() => ({ do: "undo" }))),
      redo: button("↷ Redo", "forward again", ask(() => ({ do: "redo" }))),
      name: button("Name", "name this attempt", ask(() => ({ do: "name", text: this.name.value }))),
      branch: button("Branch", "begin another line of attempts here", ask(() => ({ do: "branch",
        text: this.name.value.trim() }))),
      export: button("Export", "write the plan, and the network it is for", () => this.export()),
      copy: button("Copy", "copy the settings as a text", () => this.copy()),
      test: button("Test", "measure on the test images: at the end, not for choosing", ask(() => ({
        do: "test" }))),
    }
    const { suggest, retrain, undo, redo, name, branch, copy, test } = this.buttons
    this.retraining = group("Retrain", this.epochs, " epochs ", retrain)
    this.choosing = group("Choose", this.goal, this.amount, this.unitText, suggest)
    this.taking = group("Export", this.string, copy, this.path, this.buttons.export, test)
    this.element = h("section", { class: "pl-actions", "aria-label": "actions" }, this.choosing,
      this.retraining, group("History", undo, redo, this.name, name, branch), this.taking)
  }

  unit() {
    const keeps = this.goal.selectedIndex === 1
    put(this.unitText, keeps ? "% of weights" : "points")
    this.amount.value = keeps ? 5 : 0.5
  }

  // A file is overwritten only when the button is pressed again for the same plan.
  export() {
    const path = this.path.value, again = this.refused === path
    this.refused = undefined
    this.exporting = path
    this.state.ask({ do: "export", path, overwrite: again })
  }

  async copy() {
    const text = this.state.get("now").string
    try {
      await navigator.clipboard.writeText(text)
      put(this.buttons.copy, "Copied")
      setTimeout(() => put(this.buttons.copy, "Copy"), 1500)
    } catch { // a page that may not write there: select the text instead
      this.string.focus()
      this.string.select()
    }
  }

  draw(names) {
    const now = this.state.get("now"), network = this.state.get("network"), { busy } = now
    const can = { retrain: network.has_train, test: network.has_test, undo: now.can_undo, redo: now.can_redo }
    for (const [name, part] of Object.entries(this.buttons))
      part.disabled = name !== "copy" && Boolean(busy || can[name] === false)
    this.choosing.hidden = this.retraining.hidden = !network.has_train
    this.buttons.test.hidden = !network.has_test
    this.buttons.export.hidden = this.path.hidden = !network.has_train
    put(this.buttons.test, now.tests ? `Test (used ${now.tests}×)` : "Test")
    if (document.activeElement !== this.string) this.string.value = now.string
    if (names.has("message")) {
      const { problem } = this.state.get("message") ?? {}
      if (this.exporting && problem?.includes("overwritten")) this.refused = this.exporting
      this.exporting = undefined
    }
  }
}
