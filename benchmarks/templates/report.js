// Sorting of tables, and the pictures behind a figure. Without a script the page still says all its figures.
"use strict";

const make = (tag, words = "", cls = "") => {
  const node = document.createElement(tag);
  node.textContent = words; // never as markup: prompts are anybody's
  if (cls) node.className = cls;
  return node;
};

// ---- tables: a click on a head sorts each body of its table
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    if (!head.textContent.trim() || [...table.tBodies].every((body) => body.rows.length < 2)) return;
    const button = make("button", head.textContent, "sort");
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") === "descending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      for (const body of table.tBodies) sortBody(body, column, up ? 1 : -1);
    });
  });
}

function sortBody(body, column, sign) {
  const value = (row) => {
    const cell = row.cells[column];
    if (!cell || row.querySelector("td.reason")) return null; // failed rows stay last
    const words = cell.dataset.v ?? cell.textContent.trim();
    return words !== "" && !Number.isNaN(Number(words)) ? Number(words) : words;
  };
  const rows = [...body.rows].filter((row) => !row.classList.contains("group"));
  const order = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true }));
  rows.map((row) => [value(row), row])
    .sort(([a], [b]) => (a === null ? 1 : 0) - (b === null ? 1 : 0) || (a === null ? 0 : sign * order(a, b)))
    .forEach(([, row]) => body.append(row));
}

// ---- pictures
const store = document.getElementById("sheets");
const TITLES = { none: "broken", export: "erased", control: "control, not erased", base: "base model" };
const ORDER = ["leaked", "wrong", "other", "none", "gone", "removed", "right"];
const named = (word) => TITLES[word] ?? word;

if (store) {
  const data = JSON.parse(store.textContent);
  const dialog = document.getElementById("drill");
  const part = (name) => document.getElementById(`drill-${name}`);
  const select = part("detectors").querySelector("select");
  const urls = new Map();
  let now = {};

  for (const pick of document.querySelectorAll(".pick")) {
    const button = make("button", "", "pick");
    button.append(...pick.childNodes);
    Object.assign(button.dataset, pick.dataset);
    button.title = "show the pictures";
    pick.replaceWith(button);
    button.addEventListener("click", () => {
      now = { ...button.dataset, order: "asked" };
      part("order").value = "asked";
      show();
      dialog.showModal();
    });
  }
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  part("order").addEventListener("change", (event) => { now.order = event.target.value; show(); });
  select.addEventListener("change", () => { now.detector = select.value; now.outcome = ""; show(); });

  function sheet(model) {
    if (!urls.has(model)) { // a blob, so that a long URI does not stand in every tile
      const bytes = Uint8Array.from(atob(model.uri.slice(model.uri.indexOf(",") + 1)), (c) => c.charCodeAt(0));
      urls.set(model, URL.createObjectURL(new Blob([bytes], { type: "image/webp" })));
    }
    return `url("${urls.get(model)}")`;
  }

  function tile(model, i, words) {
    const place = model.tiles[i];
    const node = make("div", place < 0 ? "not in the page" : "", place < 0 ? "missing" : "tile");
    if (place < 0) return node;
    const rows = Math.ceil(model.tiles.filter((t) => t >= 0).length / model.columns);
    const at = (k, n) => `${n > 1 ? (100 * k) / (n - 1) : 0}%`;
    node.style.backgroundImage = sheet(model);
    node.style.backgroundSize = `${100 * model.columns}% ${100 * rows}%`;
    node.style.backgroundPosition = `${at(place % model.columns, model.columns)} ${at(Math.floor(place / model.columns), rows)}`;
    node.setAttribute("role", "img");
    node.setAttribute("aria-label", words);
    return node;
  }

  function choices(place, items, current, choose) {
    place.replaceChildren(...items.map(([value, words]) => {
      const button = make("button", words, value);
      button.setAttribute("aria-pressed", String(value === current));
      button.addEventListener("click", () => { choose(value); show(); });
      return button;
    }));
  }

  const score = (seen, concept) => (concept === null ? null : seen[2][concept] ?? null);

  // the models of a set; a control that was not asked the same shows its picture of the plain prompt
  function models_of(set) {
    const plain = data.sets[`plain|${set.cell}`];
    return "control" in set.models || !plain?.models.control ? set.models : { ...set.models, control: { ...plain.models.control, plain: true } };
  }

  function show() {
    const set = { ...data.sets[now.set], models: models_of(data.sets[now.set]) };
    const models = Object.keys(set.models).filter((name) => now.detector in set.models[name].seen);
    const model = set.models[now.model];
    const seen = model.seen[now.detector];
    const counts = {};
    for (const [, outcome] of seen) counts[outcome] = (counts[outcome] ?? 0) + 1;
    if (!counts[now.outcome]) now.outcome = ""; // none of them: then all
    part("title").textContent = `${set.probe}: ${set.cell}`;
    part("what").textContent = `Pictures by ${now.model === "export" ? "the erased model" : "the un-erased control"}, as ${now.detector} saw them${models.length > 1 ? "; the other model's picture of the same prompt and seed beside it" : ""}.`;
    choices(part("models"), models.filter((name) => !set.models[name].plain).map((name) => [name, named(name)]), now.model, (name) => { now.model = name; now.outcome = ""; });
    const outcomes = ORDER.filter((outcome) => counts[outcome]);
    choices(part("outcomes"), [["", `all ${seen.length}`], ...outcomes.map((o) => [o, `${named(o)} ${counts[o]}`])], now.outcome, (o) => { now.outcome = o; });
    const detectors = Object.keys(model.seen);
    part("detectors").hidden = detectors.length < 2;
    select.replaceChildren(...detectors.map((name) => Object.assign(make("option", name), { value: name })));
    select.value = now.detector;

    const index = seen.map((_, i) => i).filter((i) => !now.outcome || seen[i][1] === now.outcome);
    if (now.order === "score") index.sort((a, b) => (score(seen[b], set.concept) ?? 0) - (score(seen[a], set.concept) ?? 0));
    const hidden = index.filter((i) => model.tiles[i] < 0).length;
    part("count").textContent = `${index.length} of ${seen.length} pictures${hidden ? `; ${hidden} of them stand here in words only, to keep the page small` : ""}.`;
    part("tiles").replaceChildren(...index.map((i) => card(set, models, model, seen[i], i)));
  }

  function card(set, models, model, [label, outcome], i) {
    const [prompt, plain, seed] = model.asked[i];
    const node = make("figure", "", "card");
    const pair = make("div", "", "two");
    for (const name of [now.model, ...models.filter((other) => other !== now.model)]) {
      const other = set.models[name];
      const j = name === now.model ? i : other.asked.findIndex(([p, o, s]) => (other.plain ? o === plain : p === prompt) && s === seed);
      if (j < 0) continue;
      const [words, ends] = other.seen[now.detector][j];
      const one = make("div");
      const value = score(other.seen[now.detector][j], set.concept);
      const told = make("p", "", "told");
      told.append(make("span", named(ends), `tag ${ends}`), ` ${words}${value === null ? "" : `, ${value.toFixed(3)}`}`);
      one.append(tile(other, j, `${prompt}, ${named(name)}: ${named(ends)}`), make("p", name === "export" ? "erased" : other.plain ? `${name}, plain prompt` : name, "who"), told);
      pair.append(one);
    }
    const words = make("figcaption", prompt);
    words.append(make("small", `${plain === prompt ? "" : `for: ${plain}, `}seed ${seed}`));
    node.append(pair, words);
    node.dataset.outcome = outcome;
    node.dataset.label = label;
    return node;
  }
}
