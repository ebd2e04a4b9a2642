/** A model card as elements: what benchmarks/card.py writes of Markdown, and no HTML, so nothing in a card can run.
 *
 * Headings, paragraphs, quotes, bullets, tables, code fences; within a line `code`, **strong**, *stressed*, [links](https://...).
 */

import { h } from "./dom";

const INLINE = /`([^`]+)`|\*\*([^*]+)\*\*|\*([^*\s][^*]*)\*|\[([^\]]+)\]\((https?:\/\/[^\s)]+)\)/g;
const FENCE = /^```/;
const TABLE = /^\s*\|/;
const BULLET = /^- /;
const QUOTE = /^>\s?/;
const HEADING = /^(#{1,6})\s+(.*)/;

/** level: of the card's highest heading on this page. */
export function render(markdown: string, level = 3): DocumentFragment {
  const page = document.createDocumentFragment();
  const lines = markdown.replace(/^---\n[\s\S]*?\n---\n/, "").split("\n"); // without the hub's metadata
  while (lines.length) {
    const line = lines[0]!;
    const heading = HEADING.exec(line);
    if (!line.trim()) lines.shift();
    else if (heading) {
      lines.shift();
      page.append(h(`h${Math.min(6, heading[1]!.length - 1 + level)}` as "h3", {}, ...inline(heading[2]!)));
    } else if (FENCE.test(line)) page.append(fence(lines));
    else if (TABLE.test(line)) page.append(table(take(lines, TABLE)));
    else if (BULLET.test(line)) page.append(bullets(lines));
    else if (QUOTE.test(line)) page.append(quote(take(lines, QUOTE)));
    else page.append(h("p", {}, ...inline(paragraph(lines))));
  }
  return page;
}

function take(lines: string[], kind: RegExp): string[] {
  const end = lines.findIndex((line) => !kind.test(line));
  return lines.splice(0, end < 0 ? lines.length : end);
}

function quote(lines: string[]): HTMLElement {
  const inner = lines.map((line) => line.replace(QUOTE, "")).join("\n");
  const parts = inner.split(/\n{2,}/).filter((part) => part.trim());
  return h("blockquote", {}, ...parts.map((part) => h("p", {}, ...inline(part.replaceAll("\n", " ")))));
}

function fence(lines: string[]): HTMLElement {
  lines.shift();
  const end = lines.findIndex((line) => FENCE.test(line));
  const code = lines.splice(0, end < 0 ? lines.length : end);
  lines.shift();
  return h("pre", { tabindex: 0, "aria-label": "code" }, h("code", {}, code.join("\n")));
}

function table(rows: string[]): HTMLElement {
  const [head, ...body] = rows.filter((row) => !/^\s*\|[\s|:-]+\|\s*$/.test(row)).map(cells);
  // a table of facts has no names of columns: its first column says what each row is
  const named = head?.some(Boolean) ? h("thead", {}, h("tr", {}, ...head.map((cell) => (cell ? h("th", { scope: "col" }, ...inline(cell)) : h("td"))))) : null;
  const line = (row: string[]) => row.map((cell, i) => (i || named ? h("td", {}, ...inline(cell)) : h("th", { scope: "row" }, ...inline(cell))));
  return scrolling(h("table", {}, named, h("tbody", {}, ...body.map((row) => h("tr", {}, ...line(row))))));
}

/** Wide tables scroll by themselves, with the keyboard too, and the page does not. */
export function scrolling(table: HTMLTableElement, label = "table"): HTMLElement {
  return h("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": label }, table);
}

function cells(row: string): string[] {
  const inner = row.trim().replace(/^\||\|$/g, "");
  return inner.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
}

function bullets(lines: string[]): HTMLElement {
  const items: string[] = [];
  while (lines.length && (BULLET.test(lines[0]!) || (items.length && /^ {2,}\S/.test(lines[0]!)))) {
    const line = lines.shift()!;
    if (BULLET.test(line)) items.push(line.replace(BULLET, ""));
    else items[items.length - 1] += ` ${line.trim()}`;
  }
  return h("ul", {}, ...items.map((item) => h("li", {}, ...inline(item))));
}

function paragraph(lines: string[]): string {
  const words: string[] = [lines.shift()!];
  while (lines.length && lines[0]!.trim() && ![FENCE, TABLE, BULLET, QUOTE, HEADING].some((kind) => kind.test(lines[0]!))) words.push(lines.shift()!);
  return words.join(" ");
}

function inline(text: string): (Node | string)[] {
  const found: (Node | string)[] = [];
  let last = 0;
  for (const match of text.matchAll(INLINE)) {
    const [whole, code, strong, stressed, label, address] = match;
    found.push(text.slice(last, match.index));
    if (code) found.push(h("code", {}, code));
    else if (strong) found.push(h("strong", {}, strong));
    else if (stressed) found.push(h("em", {}, stressed));
    else found.push(h("a", { href: address!, rel: "noopener noreferrer", target: "_blank" }, label!));
    last = match.index + whole.length;
  }
  found.push(text.slice(last));
  return found;
}
