// How much of what is shown has whole stacks: from their root on. A stack that was cut has the reason at its root, in brackets.

import { el, type Child } from "./dom.js";
import { percent } from "./format.js";
import { explain } from "./reasons.js";
import type { Fn, Tree } from "./tree.js";

export interface Quality {
  total: number;
  whole: number;
  /** Why stacks were cut, heaviest first. */
  cut: { reason: string; value: number }[];
  /** Stacks in which a frame has no name, whole or cut. */
  unnamed: number;
}

/** True for a frame that shows its file and an address, because no name was found for it: `libc.so.6+0x1234`. */
function isBare(fn: Fn): boolean {
  const shown = fn.module === "" ? "[unknown file]" : fn.module;
  return fn.name.startsWith(shown) && /^(\+0x[0-9a-f]+)?$/.test(fn.name.slice(shown.length));
}

/** The quality of all that `tree` shows. The few stacks that are too thin to be sent count as whole. */
export function qualityOf(tree: Tree): Quality {
  const cut = [];
  for (let root = 1; root < tree.count; root = tree.end[root]!) {
    const fn = tree.functionOf(root);
    if (fn.kind === "missing") cut.push({ reason: fn.name, value: tree.totals[root]! });
  }
  // A stack counts once, at its outermost frame without a name; the reason at its root stands for what is not there.
  const nameless = tree.functions.map((fn) => fn.kind === "missing" || isBare(fn));
  let unnamed = 0;
  for (let i = 1; i < tree.count; ) {
    const isReason = tree.parent[i] === 0 && tree.functionOf(i).kind === "missing";
    if (nameless[tree.fn[i]!]! && !isReason) {
      unnamed += tree.totals[i]!;
      i = tree.end[i]!;
    } else i++;
  }
  const missing = cut.reduce((sum, { value }) => sum + value, 0);
  return { total: tree.total, whole: tree.total - missing, cut, unnamed };
}

/** A part of all stacks; what is not all of them is not called so. */
function share(value: number, total: number): string {
  return value < total && value >= total * 0.9995 ? "> 99.9 %" : percent(value, total);
}

/** The figure itself, in a few letters. */
export function figure({ total, whole }: Quality): string {
  return `${share(whole, total)} of stacks whole`;
}

/** What the figure is made of. */
export function describe({ total, whole, cut, unnamed }: Quality): Child[] {
  const row = (title: string, value: number) => el("tr", {}, el("th", {}, title), el("td", {}, share(value, total)));
  const reason = ({ reason, value }: Quality["cut"][number]) => [
    row(`cut: ${reason.slice(1, -1)}`, value),
    el("tr", {}, el("td", { class: "tip-why", colspan: "2" }, explain(reason))),
  ];
  return [
    el("div", { class: "tip-where" }, "Stacks, by their CPU time. A whole one reaches from where its thread began."),
    el("table", {}, row("whole", whole), ...cut.flatMap(reason), row("with a frame that has no name", unnamed)),
  ];
}
