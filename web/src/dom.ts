// Elements without a framework. Text is always text: nothing is parsed as HTML.

type Child = Node | string | null | undefined | false;
type Props = Record<string, unknown>;

/** An element with attributes, listeners (`onclick`) and children. */
export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  props: Props = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value as EventListener);
    else if (name === "value") (element as HTMLInputElement).value = String(value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children) if (child || child === "") element.append(child as Node | string);
  return element;
}

/** Changes text only where it differs: unchanged nodes cost no layout. */
export function text(element: Element, value: string): void {
  if (element.textContent !== value) element.textContent = value;
}

/** Greys elements out, and lets them say why. */
export function disable(why: string, ...elements: (HTMLElement & { disabled: boolean })[]): void {
  for (const element of elements) {
    element.disabled = true;
    element.title = why;
  }
}

let lastId = 0;

/** A label with its input. */
export function field(label: string, input: HTMLElement, title?: string): HTMLLabelElement {
  input.id ||= `field-${++lastId}`;
  return h("label", { class: "field", for: input.id, title }, h("span", {}, label), input);
}
