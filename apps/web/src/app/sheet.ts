/** What was erased, how that was measured, what it does not show, the gate's decision and the model card. */

import { by, h, icon } from "./dom";
import { render, scrolling } from "./markdown";
import type { Papers, Rule, Verdict } from "./papers";
import { atMost } from "./words";

const ATTACKERS: [string, string, string][] = [
  ["prompts", "By typing", "Whoever uses this page and has words only"],
  ["files", "By working on the files", "Whoever takes the model out of the page and trains it further"],
];

/** Shows the sheet; at the model card if asked so. */
export function open(papers: Papers, atCard = false): void {
  const sheet = by<HTMLDialogElement>("sheet");
  const card = h("details", { class: "card" }, h("summary", {}, "Model card"), h("div", { class: "prose" }, render(papers.card)));
  const close = h("button", { type: "button", class: "icon", "aria-label": "Close", onclick: () => sheet.close() }, icon("close"));
  sheet.replaceChildren(
    h("div", { class: "top" }, h("h2", { id: "sheet-title" }, "What was erased"), close),
    h(
      "div",
      { class: "body" },
      h("p", { class: "lead" }, "Some things were taken out of this model before it came here. Then it was asked for them again, many times."),
      ...papers.audit.verdicts.map(verdict),
      ...decision(papers),
      h("h3", {}, "What this does not show"),
      h("ul", {}, ...papers.audit.limits.map((limit) => h("li", {}, limit))),
      h("h3", {}, "Is it this very model?"),
      papers.doubts.length
        ? h("ul", { class: "doubts", role: "alert" }, ...papers.doubts.map((doubt) => h("li", {}, doubt)))
        : h("p", {}, "Yes. The audit and the decision name these files by their SHA-256, and this page checked each of them."),
      h("p", { class: "small" }, `Audited ${papers.audit.created.slice(0, 10)} · ${papers.audit.artifact.name} · ${papers.audit.artifact.target}`),
      card,
    ),
  );
  sheet.showModal();
  if (!atCard) return;
  card.open = true;
  card.querySelector("summary")?.focus();
  card.scrollIntoView();
}

function verdict(row: Verdict): HTMLElement {
  const meters = ATTACKERS.map(([key, title, who]) => {
    const share = row.by_attacker[key];
    const fill = h("i");
    fill.style.inlineSize = `${100 * (share ?? 0)}%`;
    return h(
      "div",
      { class: "leak" },
      h("p", {}, h("strong", {}, title), h("span", {}, typeof share === "number" ? atMost(share) : "not measured")),
      h("div", { class: "gauge", "aria-hidden": "true" }, fill),
      h("p", { class: "small" }, who),
    );
  });
  return h(
    "article",
    { class: "verdict" },
    h("h3", {}, `“${row.concept}”`, h("span", { class: "kind" }, row.kind)),
    h("p", { class: "small" }, "Share of pictures that show it when asked for it: upper limit, 95 % sure."),
    ...meters,
    h("blockquote", {}, row.sentence),
    row.cautions.length > 0 && h("h4", {}, "Read with it"),
    row.cautions.length > 0 && h("ul", {}, ...row.cautions.map((caution) => h("li", {}, caution))),
    h("p", { class: "small" }, `Judged by ${row.detector}.`),
  );
}

function decision({ seal }: Papers): HTMLElement[] {
  const { passed, policy, rules } = seal.decision;
  const demanded = rules.filter((rule) => rule.passed !== null).length;
  const kept = rules.filter((rule) => rule.passed).length;
  return [
    h("h3", {}, "The gate's decision"),
    h("p", {}, h("strong", { class: passed ? "passed" : "refused" }, passed ? "Passed" : "Refused"), ` ${kept} of ${demanded} limits of ${policy} are kept.`),
    h("details", {}, h("summary", {}, "Every limit"), scrolling(table(rules), "limits of the gate")),
  ];
}

function table(rules: Rule[]): HTMLTableElement {
  const head = ["", "rule", "limit", "found", "by"].map((name) => (name ? h("th", { scope: "col" }, name) : h("td")));
  const row = (rule: Rule) =>
    h(
      "tr",
      {},
      h("td", {}, rule.passed === null ? "shown" : rule.passed ? "kept" : "broken"),
      h("th", { scope: "row" }, rule.concept ? `${rule.name}, “${rule.concept}”` : rule.name),
      ...[rule.limit, rule.found, rule.why].map((cell) => h("td", {}, cell)),
    );
  return h("table", {}, h("thead", {}, h("tr", {}, ...head)), h("tbody", {}, ...rules.map(row)));
}
