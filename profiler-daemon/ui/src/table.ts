// The table of functions: where time is spent itself, and in all that is called from there.

import { swatch, type Theme } from "./colors.js";
import { el } from "./dom.js";
import { amount, basename, percent, signed, type Unit } from "./format.js";
import { longest, shorter } from "./names.js";
import type { ColorBy } from "./state.js";
import { share, type Fn, type Tree } from "./tree.js";

type Column = "name" | "self" | "total" | "change";

interface Row {
  /** Its number: of thousands of functions few are looked at. */
  index: number;
  self: number;
  total: number;
  /** Of its share, against the side that is compared with. */
  change: number;
}

/** As the style sheet has it: beside the graph; on a phone. Otherwise below the graph. */
const BESIDE = matchMedia("(min-width: 1500px)");
const PHONE = matchMedia("(max-width: 820px)");
/** Rows that are listed; more are when asked for. */
const PAGE = 30;
/** Of those, rows that are made at once: below the graph no more are seen. The others are made as they come near. */
const BATCH = 12;
/** How near that is. */
const NEAR = "100px";

export interface TableOptions {
  scroller: HTMLElement;
  table: HTMLTableElement;
  more: HTMLButtonElement;
  note: HTMLElement;
  onHover(fn: Fn | null): void;
  onChoose(fn: Fn): void;
  onMenu(fn: Fn, x: number, y: number): void;
}

export class FunctionTable {
  /** Those that are listed, and how many of them are made, from the first on. */
  private listed: Row[] = [];
  private made = BATCH;
  private heaviest = 1;
  /** Tells when the last that is made comes near. */
  private readonly end: IntersectionObserver;
  private tree: Tree | null = null;
  private unit: Unit = "time";
  private by: { column: Column; down: boolean } = { column: "self", down: true };
  private shown = PAGE;
  private matches: ((name: string) => boolean) | null = null;
  private theme: Theme = "dark";
  private color: ColorBy = "module";
  private readonly body = el("tbody");
  private readonly heads = new Map<Column, HTMLTableCellElement>();
  private readonly elements = new Map<string, HTMLTableRowElement>();
  private marked: string | null = null;
  private compared = false;

  constructor(private readonly options: TableOptions) {
    const head = (column: Column, title: string, hint: string) => {
      const button = el("button", { type: "button", title: hint }, title);
      const cell = el("th", { scope: "col", class: `column-${column}` }, button);
      button.addEventListener("click", () => {
        const down = this.by.column === column ? !this.by.down : column !== "name";
        this.by = { column, down };
        this.render();
      });
      this.heads.set(column, cell);
      return cell;
    };
    options.table.append(
      el("thead", {}, el("tr", {}, head("name", "Function", "sort by name"), head("self", "Self", "time in the function itself"), head("total", "Total", "time in the function and in all it calls"), head("change", "Change", "of the share of its total, against before"))),
      this.body,
    );
    this.end = new IntersectionObserver((seen) => seen.some(({ isIntersecting }) => isIntersecting) && this.make(this.made + BATCH), { root: options.scroller, rootMargin: NEAR });
    options.more.addEventListener("click", () => {
      this.shown += PAGE * 4;
      this.render();
    });
    this.body.addEventListener("pointerleave", () => options.onHover(null));
  }

  show(tree: Tree, unit: Unit): void {
    this.tree = tree;
    this.unit = unit;
    const compared = tree.base !== null;
    // What changed most is what a comparison is made for.
    if (this.options.table.classList.toggle("compared", compared) !== this.compared) this.by = { column: compared ? "change" : "self", down: true };
    this.compared = compared;
    this.render();
  }

  filter(matches: ((name: string) => boolean) | null): void {
    this.matches = matches;
    this.shown = PAGE;
    this.made = BATCH;
    this.render();
  }

  paint(theme: Theme, color: ColorBy): void {
    this.theme = theme;
    this.color = color;
    this.render();
  }

  /** Marks the row of a function that is pointed at in the graph. */
  highlight(key: string | null): void {
    if (this.marked === key) return;
    if (this.marked !== null) this.elements.get(this.marked)?.classList.remove("marked");
    this.marked = key;
    if (key !== null) this.elements.get(key)?.classList.add("marked");
  }

  /** What the server's row of that number says. */
  private row(i: number): Row {
    const { json, scale, all, base } = this.tree!;
    const { rows } = json;
    const total = rows.total[i]! * scale;
    const change = base === null ? 0 : share(total, all) - share(rows.base_total![i]!, base.all);
    return { index: rows.function[i]!, self: rows.self[i]! * scale, total, change };
  }

  private render(): void {
    const { options, tree, by, matches } = this;
    if (tree === null) return;
    for (const [column, cell] of this.heads) cell.setAttribute("aria-sort", column !== by.column ? "none" : by.down ? "descending" : "ascending");
    const sign = by.down ? -1 : 1;
    const fnOf = (row: Row) => tree.functionAt(row.index);
    // By what is spent in functions themselves they come sorted already: none is made that is not listed.
    const isSorted = !this.compared && by.column === "self" && by.down;
    const count = tree.json.rows.function.length;
    const all = Array.from({ length: isSorted && matches === null ? Math.min(this.shown, count) : count }, (_, i) => this.row(i));
    const fitting = matches === null ? all : all.filter((row) => matches(fnOf(row).name) || matches(fnOf(row).module));
    if (!isSorted) fitting.sort((a, b) => {
      const order = by.column === "name" ? fnOf(a).name.localeCompare(fnOf(b).name) : by.column === "change" ? Math.abs(a.change) - Math.abs(b.change) : a[by.column] - b[by.column];
      return order === 0 ? b.total - a.total : order * sign;
    });
    this.listed = fitting.slice(0, this.shown);
    this.heaviest = Math.max(1, ...this.listed.map((row) => (by.column === "total" ? row.total : row.self)));
    // Whoever walks the table by keyboard stays at their row when it is made anew.
    const focused = document.activeElement?.closest<HTMLElement>("tr[data-name]")?.dataset["name"];
    this.elements.clear();
    this.body.replaceChildren();
    const { made } = this;
    this.made = 0;
    this.make(Math.max(made, BESIDE.matches ? PAGE : BATCH));
    if (focused !== undefined && document.activeElement === document.body) {
      const again = this.listed.find((row) => fnOf(row).name === focused);
      if (again !== undefined) this.elements.get(fnOf(again).key)?.querySelector("button")?.focus({ preventScroll: true });
    }
    const left = (matches === null ? count : fitting.length) - this.listed.length;
    options.more.hidden = left === 0;
    options.more.textContent = `Show more (${left} left)`;
    const { hidden } = tree.json;
    options.note.textContent =
      fitting.length === 0 && matches !== null ? "No function matches the search." : hidden.rows > 0 ? `${hidden.rows} functions with the least time are not listed.` : "";
  }

  /** Makes rows up to that one, and others when they come near. */
  private make(to: number): void {
    this.body.append(...this.listed.slice(this.made, to).map((row) => this.element(row)));
    this.made = Math.min(to, this.listed.length);
    const { note } = this.options;
    // Anew: an observer tells of what changed, and the end may still be near.
    this.end.unobserve(note);
    if (this.made < this.listed.length) this.end.observe(note);
  }

  private element({ index, self, total, change }: Row): HTMLTableRowElement {
    const { options, by, heaviest } = this;
    const { all } = this.tree!;
    const fn = this.tree!.functionAt(index);
    const room = BESIDE.matches ? 28 : PHONE.matches ? 20 : 56;
    const dot = el("span", { class: fn.kind === "missing" ? "dot missing" : "dot" });
    dot.style.background = swatch(fn, this.color, this.theme);
    const bar = el("span", { class: "cell-bar" });
    bar.style.width = `${((by.column === "total" ? total : self) / heaviest) * 100}%`;
    const name = el("button", { type: "button", class: "function", title: fn.name }, longest(shorter(fn.name), room));
    const where = fn.kind === "kernel" ? "kernel" : basename(fn.module);
    const number = (value: number, column: Column) =>
      el("td", { class: "number" }, by.column === column || (by.column === "name" && column === "self") ? bar : null, el("span", { class: "value" }, amount(value, this.unit)), el("span", { class: "part" }, percent(value, all)));
    const row = el("tr", { "data-self": String(self), "data-total": String(total), "data-name": fn.name }, el("td", {}, el("div", { class: "name" }, dot, name, el("span", { class: "where", title: fn.module }, where))), number(self, "self"), number(total, "total"), this.compared ? el("td", { class: `number ${change < 0 ? "less" : "more"}` }, signed(change)) : null);
    row.addEventListener("pointerenter", () => options.onHover(fn));
    name.addEventListener("focus", () => options.onHover(fn));
    name.addEventListener("blur", () => options.onHover(null));
    row.addEventListener("click", () => options.onChoose(fn));
    row.addEventListener("contextmenu", (event) => {
      event.preventDefault();
      // By the keyboard there is no pointer: below the name.
      const { left, bottom } = name.getBoundingClientRect();
      options.onMenu(fn, event.button === 2 ? event.clientX : left, event.button === 2 ? event.clientY : bottom);
    });
    if (fn.key === this.marked) row.classList.add("marked");
    this.elements.set(fn.key, row);
    return row;
  }
}
