// What there is to say about a frame that one points at.
//
// In: a node of a tree, and how it is looked at. Out: what the tooltip holds. Not here: where it is shown.

import { el, type Child } from "./dom.js";
import { amount, cores, percent, signed, type Unit } from "./format.js";
import { explain } from "./reasons.js";
import { share, type Tree } from "./tree.js";

/** How a tree is looked at. */
export interface Look {
  /** The node that fills the graph, and what it is called in "of …". */
  zoom: number;
  part: string;
  unit: Unit;
  /** Time that was measured, milliseconds; 0 where that says nothing. */
  rangeMs: number;
}

export function describe(tree: Tree, node: number, { zoom, part, unit, rangeMs }: Look): Child[] {
  const fn = tree.functionOf(node);
  const total = tree.totals[node]!;
  const row = (title: string, value: number) =>
    el("tr", {}, el("th", {}, title), el("td", {}, amount(value, unit)), el("td", {}, percent(value, tree.all)), zoom === 0 ? null : el("td", {}, percent(value, tree.totals[zoom]!)));
  const where = node === 0 ? "" : fn.file === "" ? "" : fn.line > 0 ? `${fn.file}:${fn.line}` : fn.file;
  return [
    el("div", { class: "tip-name" }, node === 0 ? "all" : fn.name),
    fn.module === "" ? null : el("div", { class: "tip-where" }, fn.kind === "kernel" ? "kernel" : fn.module),
    where === "" ? null : el("div", { class: "tip-where" }, where),
    el(
      "table",
      {},
      el("tr", {}, el("th"), el("th"), el("th", {}, "of all"), zoom === 0 ? null : el("th", {}, `of ${part}`)),
      row("total", total),
      row("self", tree.selfs[node]!),
      ...compared(tree, node, unit),
    ),
    unit === "time" && rangeMs > 0 ? el("div", { class: "tip-note" }, `${cores(total / 1e6 / rangeMs)} on average`) : null,
    fn.kind === "missing" && node !== 0 ? el("div", { class: "tip-reason" }, explain(fn.name)) : null,
  ];
}

/** What there is to say about a frame beside what it was. */
function compared({ base, totals, all, scale, baseName }: Tree, node: number, unit: Unit): Child[] {
  if (base === null) return [];
  const points = share(totals[node]!, all) - share(base.totals[node]!, base.all);
  const row = (title: string, value: string, part: string) => el("tr", {}, el("th", {}, title), el("td", {}, value), el("td", {}, part));
  const before = scale === 1 ? amount(base.totals[node]!, unit) : "";
  return [row(`total, ${baseName}`, before, percent(base.totals[node]!, base.all)), row("change", "", signed(points))];
}
