// What the page asks the kernel for. All that is not carried out yet is sent each time, numbered, so
// that nothing is lost where a host merges changes, or a connection ends and comes back.

export class Requests {
  constructor(view, send) {
    this.view = view
    this.send = send // gets {view, list}
    this.last = 0
    this.list = []
  }

  // A later threshold of the same layers takes the place of one that was not carried out.
  ask(request) {
    const n = ++this.last
    const same = other => other.do === "set" && request.do === "set" && other.drag && request.drag
      && Object.keys(other.layers).join() === Object.keys(request.layers).join()
    const previous = this.list[this.list.length - 1]
    if (previous && same(previous)) this.list.pop()
    this.list.push({ n, ...request })
    this.send({ view: this.view, list: this.list.slice() })
    return n
  }

  handled(n) {
    this.list = this.list.filter(request => request.n > n)
  }

  get waiting() {
    return this.list.length > 0
  }
}
