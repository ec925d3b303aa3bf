// How much of what is shown has whole stacks: from their root on. A stack that was cut has the reason at its root, in brackets.

import { el, type Child } from "./dom.js";
import { basename, percent } from "./format.js";
import { explain } from "./reasons.js";
import type { Fn, Tree } from "./tree.js";

export interface Quality {
  total: number;
  whole: number;
  /** Why stacks were cut, heaviest first, and the file in whose code most of them were. */
  cut: { reason: string; value: number; module: string; share: number }[];
  /** Stacks in which a frame has no name, whole or cut; counted when it is asked for. */
  readonly unnamed: number;
}

/** True for a frame that shows its file and an address, because no name was found for it: `libc.so.6+0x1234`. */
function isBare(fn: Fn): boolean {
  const shown = fn.module === "" ? "[unknown file]" : fn.module;
  return fn.name.startsWith(shown) && /^(\+0x[0-9a-f]+)?$/.test(fn.name.slice(shown.length));
}

/** The file whose code comes first below `root` most often, and in which part of the stacks. */
function mostIn(tree: Tree, root: number): { module: string; share: number } {
  const sums = new Map<string, number>();
  for (let child = root + 1; child < tree.end[root]!; child = tree.end[child]!) {
    const { module } = tree.functionOf(child);
    sums.set(module, (sums.get(module) ?? 0) + tree.totals[child]!);
  }
  const [module, value] = [...sums].reduce((most, one) => (one[1] > most[1] ? one : most), ["", 0]);
  return { module, share: value / tree.totals[root]! };
}

/** How far what is shown can be trusted, in a word. */
export type Grade = "good" | "fair" | "poor";

export function gradeOf({ total, whole }: Quality): Grade {
  const part = whole / total;
  return part >= 0.95 ? "good" : part >= 0.8 ? "fair" : "poor";
}

const MEANING: Record<Grade, string> = {
  good: "Good: nearly every stack is whole, which is to say that it reaches to where its thread began.",
  fair: "Fair: what costs most is right, but some callers are missing. A whole stack reaches to where its thread began.",
  poor: "Poor: the functions that cost are right, but many of their callers are missing. What helps stands below. A whole stack reaches to where its thread began.",
};

/** The quality of all that `tree` shows. The few stacks that are too thin to be sent count as whole. */
export function qualityOf(tree: Tree): Quality {
  const cut = [];
  for (let root = 1; root < tree.count; root = tree.end[root]!) {
    const fn = tree.functionOf(root);
    if (fn.kind === "missing") cut.push({ reason: fn.name, value: tree.totals[root]!, ...mostIn(tree, root) });
  }
  const missing = cut.reduce((sum, { value }) => sum + value, 0);
  return {
    ...{ total: tree.total, whole: tree.total - missing, cut },
    get unnamed() {
      return unnamedIn(tree);
    },
  };
}

/** A stack counts once, at its outermost frame without a name; the reason at its root stands for what is not there. */
function unnamedIn(tree: Tree): number {
  const isNameless = (fn: Fn) => fn.kind === "missing" || isBare(fn);
  let unnamed = 0;
  for (let i = 1; i < tree.count; ) {
    const isReason = tree.parent[i] === 0 && tree.functionOf(i).kind === "missing";
    if (!isReason && isNameless(tree.functionOf(i))) {
      unnamed += tree.totals[i]!;
      i = tree.end[i]!;
    } else i++;
  }
  return unnamed;
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
export function describe(quality: Quality): Child[] {
  const { total, whole, cut, unnamed } = quality;
  const row = (title: string, value: number) => el("tr", {}, el("th", {}, title), el("td", {}, share(value, total)));
  const reason = ({ reason, value, module, share }: Quality["cut"][number]) => [
    row(`cut: ${reason.slice(1, -1)}`, value),
    el("tr", {}, el("td", { class: "tip-why", colspan: "2" }, `${module === "" ? "" : `${share > 0.99 ? "All" : `${Math.round(share * 100)} %`} of it in ${basename(module)}. `}${explain(reason)}`)),
  ];
  return [
    el("div", { class: "tip-where" }, MEANING[gradeOf(quality)]),
    el("table", {}, row("whole", whole), ...cut.flatMap(reason), row("with a frame that has no name", unnamed)),
  ];
}
