/** Elements without templates: text is always text, so that no prompt, name or card can become markup. */

type Child = Node | string | null | undefined | false;
type Properties = Record<string, string | number | boolean | EventListener | undefined>;

/** `h("button", { class: "quiet", onclick: ... }, "Close")`; what starts with "on" listens, the rest are attributes. */
export function h<K extends keyof HTMLElementTagNameMap>(tag: K, properties: Properties = {}, ...children: Child[]): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== undefined) element.setAttribute(name, String(value));
  }
  element.append(...children.filter((child): child is Node | string => Boolean(child)));
  return element;
}

/** An element of index.html. */
export function by<T extends HTMLElement = HTMLElement>(id: string): T {
  const element = document.getElementById(id);
  if (!element) throw new Error(`index.html has no #${id}`);
  return element as T;
}

const SVG = "http://www.w3.org/2000/svg";
const PATHS = {
  dice: "M5 3h14a2 2 0 0 1 2 2v14a2 2 0 0 1-2 2H5a2 2 0 0 1-2-2V5a2 2 0 0 1 2-2ZM8 8h.01M16 8h.01M12 12h.01M8 16h.01M16 16h.01",
  shuffle: "M20 11a8 8 0 1 0-2.300 5.700M20 5v6h-6",
  download: "M12 4v11m0 0 5-5m-5 5-5-5M5 20h14",
  copy: "M9 9h10v11H9zM5 15V4h10",
  share: "M12 15V4m0 0L8 8m4-4 4 4M5 12v8h14v-8",
  again: "M4 13a8 8 0 1 0 2.300-5.700M4 5v6h6",
  bin: "M4 7h16M9 7V4h6v3M6 7l1 13h10l1-13M10 11v5m4-5v5",
  close: "M6 6l12 12M18 6 6 18",
  back: "M15 5l-7 7 7 7",
  next: "M9 5l7 7-7 7",
};

export function icon(name: keyof typeof PATHS): SVGElement {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}

let hiding = 0;

/** A short message at the foot of the page, with something to press perhaps. */
export function toast(message: string, action?: { label: string; run: () => void }): void {
  const place = by("toast");
  const hide = () => place.replaceChildren();
  const press = () => {
    action?.run();
    hide();
  };
  place.replaceChildren(h("span", {}, message), ...(action ? [h("button", { type: "button", onclick: press }, action.label)] : []));
  clearTimeout(hiding);
  hiding = window.setTimeout(hide, action ? 8000 : 4000);
}

/** For screen readers alone. */
export function say(message: string): void {
  by("said").textContent = message;
}
