// Elements of HTML and SVG. Text never becomes markup.

export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag)
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value)
    else if (name === "class") element.className = value
    else if (name in element && name !== "list") element[name] = value
    else element.setAttribute(name, value)
  }
  element.append(...children)
  return element
}

export function s(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag)
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value)
  element.append(...children)
  return element
}

// Set only what is other than it is: writing the same text again would cost a layout, a new node more.
export function put(element, text) {
  const { firstChild: node } = element
  if (!node) element.textContent = text
  else if (node.data !== text) node.data = text
}

export const button = (text, title, onclick, name = "") =>
  h("button", { type: "button", title, onclick, class: `pl-button ${name}` }, text)
