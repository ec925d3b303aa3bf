// Flame graph and table as one: what is pointed at in one is marked in the other, a search drives both. A sandwich shows
// two graphs in the place of one.

import type { FlameJson } from "./api.js";
import { changeColor, groupOf, meet, swatch } from "./colors.js";
import type { Context } from "./context.js";
import { byId, el, fill, say } from "./dom.js";
import { FlameGraph, pixels } from "./flame.js";
import { amount, basename, isCpu, nounOf, percent, unitOf } from "./format.js";
import type { Item } from "./menu.js";
import { PRESETS } from "./presets.js";
import { matcher, type ColorBy, type State } from "./state.js";
import { FunctionTable } from "./table.js";
import { Tree, type Fn } from "./tree.js";

/** A zoom waits this long for what it asks for, so that it is drawn once and not twice; it is drawn from what is there if that takes longer. */
const PATIENCE_MS = 100;
/** Groups that the legend names. */
const NAMED = 6;

export class GraphView {
  /** What the graph shows: all that was sent, or what is below one node only; of a sandwich, the callees. */
  tree: Tree | null = null;
  /** All that was sent: what the table and the legend of everything are of. */
  whole: Tree | null = null;
  /** Where what is shown begins to be all that can be drawn, if it is not the whole. */
  private near: readonly string[] = [];
  /** A zoom that waits: into which tree, and from where in it. */
  private coming: { tree: Tree; from: readonly string[] } | null = null;
  private patience = 0;
  private callers: Tree | null = null;
  private known: { tree: Tree; node: number; color: ColorBy; groups: ReturnType<Tree["groups"]> } | null = null;
  readonly flame: FlameGraph;
  private readonly sandwich: { callers: FlameGraph; callees: FlameGraph };
  private readonly table: FunctionTable;

  constructor(private readonly context: Context) {
    const { tooltip } = context;
    const onHover = (fn: Fn | null) => this.table.highlight(fn?.key ?? null);
    this.flame = new FlameGraph({
      ...{ scroller: byId("flame-scroller"), canvas: byId<HTMLCanvasElement>("flame"), spacer: byId("flame-spacer"), tooltip, onHover, part: "zoomed" },
      onZoom: (node) => {
        // A click on the frame that fills the graph leads back, as one expects of a second click.
        const target = node === this.flame.zoomed && node !== 0 ? this.tree!.parent[node]! : node;
        context.choose({ zoom: this.tree!.keys(target) });
      },
      onMenu: (node, x, y) => this.offer(this.tree!, node, x, y),
    });
    const half = (name: string, tree: () => Tree | null, flipped: boolean) =>
      new FlameGraph({
        ...{ scroller: byId(`${name}-scroller`), canvas: byId<HTMLCanvasElement>(name), spacer: byId(`${name}-spacer`), tooltip, onHover, flipped, part: "this function" },
        // Whoever follows callers or callees wants to see theirs.
        onZoom: (node) => context.choose({ function: tree()!.functionOf(node).name }),
        onMenu: (node, x, y) => this.offer(tree()!, node, x, y),
      });
    this.sandwich = { callers: half("callers", () => this.callers, true), callees: half("callees", () => this.tree, false) };
    this.table = new FunctionTable({
      table: byId<HTMLTableElement>("functions"),
      scroller: byId("table-scroller"),
      more: byId<HTMLButtonElement>("more"),
      note: byId("table-note"),
      onHover: (fn) => this.graphs.forEach((graph) => graph.highlight(fn?.key ?? null)),
      onChoose: (fn) => context.choose({ query: context.state.query === fn.name ? "" : fn.name }, false),
      onMenu: (fn, x, y) => context.menu.show(x, y, this.actions(fn), fn.name),
    });
    this.table.filter(matcher(context.state.query));
  }

  /** One graph of all, and no sandwich. */
  get isWhole(): boolean {
    return this.callers === null;
  }

  private get graphs(): FlameGraph[] {
    return [this.flame, this.sandwich.callers, this.sandwich.callees];
  }

  /** Takes what the server answered; `callers` if it is a sandwich. */
  show(json: FlameJson, callers: FlameJson | null): void {
    clearTimeout(this.patience);
    this.coming = null;
    const base = this.context.state.against ?? "before";
    const tree = (this.tree = this.whole = new Tree(json, base));
    this.callers = callers === null ? null : new Tree(callers, base);
    meet(this.groups(tree, 0), this.context.state.color);
    const unit = unitOf(json.type);
    const ms = isCpu(json.type) ? this.context.measuredMs : 0;
    byId("sandwich").hidden = callers === null;
    byId("flame-scroller").hidden = callers !== null;
    if (this.callers === null) this.look(tree, this.context.state.zoom);
    else {
      // The function itself is the first below the root, if it is there at all.
      const first = (tree: Tree) => Math.min(1, tree.count - 1);
      this.sandwich.callers.show(this.callers, first(this.callers), unit, ms);
      this.sandwich.callees.show(tree, first(tree), unit, ms);
    }
    this.table.show(tree, unit);
    this.showMatches();
    this.showPlace();
  }

  /** Shows what is below `near` and was too light to be sent before. False if it is not of the data that are shown. */
  approach(json: FlameJson, near: readonly string[]): boolean {
    const tree = new Tree(json, this.whole?.baseName);
    // The data of one range only grow or go: what weighs the same is the same.
    if (tree.all !== this.whole?.all || tree.base?.all !== this.whole.base?.all) return false;
    this.settle();
    this.look(tree, this.context.state.zoom);
    this.near = near;
    this.showMatches();
    this.showPlace();
    return true;
  }

  /** Lets the one graph show `tree`, from where `zoom` leads. */
  private look(tree: Tree, zoom: readonly string[]): void {
    this.tree = tree;
    const { type } = tree.json;
    this.flame.show(tree, tree.find(zoom), unitOf(type), isCpu(type) ? this.context.measuredMs : 0);
  }

  /** Follows a choice that asks for nothing new. */
  update(before: State): void {
    const { state } = this.context;
    if (before.color !== state.color) this.paint();
    if (before.query !== state.query) {
      this.table.filter(matcher(state.query));
      this.showMatches();
    }
    if (this.tree !== null && this.callers === null && before.zoom.join() !== state.zoom.join()) {
      // Who leaves what is near sees the whole again: from the same place, so that the movement begins there.
      const stays = this.tree === this.whole || this.near.every((key, step) => key === state.zoom[step]);
      this.coming = { tree: stays ? this.tree : this.whole!, from: this.coming?.from ?? before.zoom };
      clearTimeout(this.patience);
      const awaits = this.hides(state.zoom);
      const move = () => {
        this.settle();
        this.showPlace(awaits);
      };
      if (awaits) this.patience = setTimeout(move, PATIENCE_MS);
      else move();
    }
    this.showWithout();
  }

  /** Lets a zoom that waits begin. */
  private settle(): void {
    const { coming } = this;
    if (coming === null) return;
    clearTimeout(this.patience);
    this.coming = null;
    if (coming.tree !== this.tree) this.look(coming.tree, coming.from);
    this.flame.zoomTo(coming.tree.find(this.context.state.zoom));
  }

  paint(): void {
    const { theme, state } = this.context;
    if (this.whole !== null) meet(this.groups(this.whole, 0), state.color);
    this.graphs.forEach((graph) => graph.paint(theme, state.color));
    this.table.paint(theme, state.color);
    this.showLegend();
  }

  /** Parts of the width that can be drawn here. Before there is one it is as wide as the window, whose inner width would lay the page out. */
  get parts(): number {
    return pixels(this.flame.width || window.outerWidth || screen.width);
  }

  /** The node that fills the graph. */
  get zoomed(): number {
    return this.callers === null ? this.flame.zoomed : Math.min(1, (this.tree?.count ?? 1) - 1);
  }

  /** True if something at that place was too light to be sent: who comes near may ask for it. From afar there is no more to be seen. */
  hides(zoom: readonly string[]): boolean {
    const tree = this.coming?.tree ?? this.tree;
    return zoom.length > 0 && tree !== null && this.isWhole && tree.json.hidden.value > 0 && tree.hiddenBelow(tree.find(zoom)) > 0;
  }

  /** Frames as they are drawn, for tests. */
  drawn(): ReturnType<FlameGraph["drawn"]> {
    return this.callers === null ? this.flame.drawn() : [...this.sandwich.callers.drawn(), ...this.sandwich.callees.drawn()];
  }

  private offer(tree: Tree, node: number, x: number, y: number): void {
    if (node === 0) return;
    const fn = tree.functionOf(node);
    const items: Item[] = [];
    if (this.callers === null) items.push({ label: "Zoom in", detail: "click", act: () => this.context.choose({ zoom: tree.keys(node) }) });
    const stack = () => tree.path(node).slice(1).map((step) => tree.functionOf(step).name).join("\n");
    this.context.menu.show(x, y, [...items, ...this.actions(fn), { label: "Copy stack", act: () => void this.copy(stack()) }], fn.name);
  }

  /** What can be done with a function, wherever it is shown. */
  private actions(fn: Fn): Item[] {
    const { context } = this;
    const { state } = context;
    const module = `/^${fn.module.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")}$/`;
    const items: Item[] = [
      { label: "Sandwich", detail: "its callers and callees", act: () => context.choose({ view: "sandwich", function: fn.name, zoom: [] }) },
      { label: "Only this", detail: "stacks that pass through it", act: () => context.choose({ only: including(state.only, fn.name), zoom: [] }) },
      { label: "Hide", detail: "its time goes to its callers", act: () => context.choose({ hide: including(state.hide, fn.name), zoom: [] }) },
    ];
    if (fn.kind === "user" && fn.module !== "") items.push({ label: `Hide all of ${basename(fn.module)}`, act: () => context.choose({ hide: including(state.hide, module), zoom: [] }) });
    items.push({ label: "Search for it", act: () => context.choose({ query: fn.name }, false) }, { label: "Copy name", act: () => void this.copy(fn.name) });
    return items;
  }

  private async copy(text: string): Promise<void> {
    try {
      await navigator.clipboard.writeText(text);
      this.context.notify("copied");
    } catch {
      this.context.notify("This browser does not let the page copy");
    }
  }

  /** What is searched, in the graphs; the table filters itself. */
  private showMatches(): void {
    const matches = matcher(this.context.state.query);
    const badge = byId("matched");
    if (this.tree === null || matches === null) {
      this.graphs.forEach((graph) => graph.mark(null));
      badge.textContent = "";
      return;
    }
    const { functions, value } = this.tree.match(matches, this.zoomed);
    if (this.callers !== null) this.sandwich.callers.mark(this.callers.match(matches, 0).functions);
    (this.callers === null ? this.flame : this.sandwich.callees).mark(functions);
    // What was too thin to be sent may match too.
    const least = value < this.tree.widths[this.zoomed]! && this.tree.hiddenBelow(this.zoomed) > 0 ? "≥ " : "";
    badge.textContent = `${least}${percent(value, this.tree.widths[this.zoomed]!)} matched`;
  }

  /** Where one is: the way from the root, or the function in the middle. What more is `awaited` for is not told of before. */
  private showPlace(awaited = false): void {
    const { tree } = this;
    if (tree === null) return;
    const { state, choose } = this.context;
    const { zoomed } = this;
    const weight = this.callers === null ? tree.totals[zoomed]! : tree.total;
    const share = `${amount(weight, unitOf(tree.json.type))} ${nounOf(tree.json.type)}`.trimEnd() + `, ${percent(weight, tree.all)}`;
    const between = () => el("span", { class: "faint", "aria-hidden": "true" }, "›");
    const place = byId("crumbs");
    if (this.callers !== null) {
      fill(place, [state.function, share], () => {
        const leave = el("button", { type: "button", class: "crumb" }, "all");
        leave.addEventListener("click", () => choose({ view: "calls", function: null, zoom: [] }));
        const here = el("span", { class: "crumb", "aria-current": "location", title: state.function ?? "" }, state.function ?? "");
        return [leave, between(), here, el("span", { class: "faint" }, share)];
      });
    } else {
      const path = tree.path(zoomed);
      const nameOf = (node: number) => (node === 0 ? "all" : tree.functionOf(node).name);
      const keys = tree.keys(zoomed);
      fill(place, [path.map(nameOf), keys, share], () => {
        const crumb = (node: number, step: number): HTMLElement => {
          const name = nameOf(node);
          if (node === zoomed) return el("span", { class: "crumb", "aria-current": "location", title: name }, name);
          const button = el("button", { type: "button", class: "crumb", title: name }, name);
          button.addEventListener("click", () => choose({ zoom: keys.slice(0, step) }));
          return button;
        };
        // Of a long way the ends are shown.
        const left = path.length <= 6 ? 0 : path.length - 5;
        const crumbs = left === 0 ? path.map(crumb) : [...path.slice(0, 2).map(crumb), el("span", { class: "faint", title: `${left} more` }, "…"), ...path.slice(-3).map((node, i) => crumb(node, left + 2 + i))];
        return [...crumbs.flatMap((item, i) => (i === 0 ? [item] : [between(), item])), el("span", { class: "faint" }, share)];
      });
    }
    if (state.query !== "") this.showMatches();
    this.showWithout();
    if (!awaited) this.tell();
  }

  /** What it is made of, and what is not to be seen of it. */
  tell(): void {
    const { tree, zoomed } = this;
    if (tree === null) return;
    this.showLegend();
    const hidden = tree.hiddenBelow(zoomed);
    say(byId("hidden"), hidden === 0 ? "" : `${percent(hidden, tree.totals[zoomed]!)} in stacks too thin to draw: zoom in`);
  }

  /** What is left out, each with a way to have it back. */
  private showWithout(): void {
    const { state, choose } = this.context;
    const chips = () => (["only", "hide"] as const).flatMap((what) =>
      state[what].map((text) => {
        const known = PRESETS.find(({ pattern }) => pattern === text);
        const said = `${what === "only" ? "only" : "without"} ${known?.title ?? text}`;
        const chip = el("button", { type: "button", class: "chip", title: `${said}: click to take it back` }, el("span", { class: "chip-text" }, said), el("span", { class: "cross", "aria-hidden": "true" }, "×"));
        chip.addEventListener("click", () => choose({ [what]: state[what].filter((other) => other !== text), zoom: [] }));
        return chip;
      }),
    );
    fill(byId("without"), [state.only, state.hide], chips);
  }

  /** What each colour weighs below a node; twice in a row it is asked for the same. */
  private groups(tree: Tree, node: number): ReturnType<Tree["groups"]> {
    const { color } = this.context.state;
    const { known } = this;
    if (known === null || known.tree !== tree || known.node !== node || known.color !== color) {
      this.known = { tree, node, color, groups: tree.groups(node, (fn) => groupOf(fn, color), color !== "package") };
    }
    return this.known!.groups;
  }

  private showLegend(): void {
    const { tree, zoomed } = this;
    if (tree === null) return;
    const { state, theme } = this.context;
    const place = byId("legend");
    if (tree.base !== null) {
      fill(place, [theme, state.against], () => {
        const steps = [-1, -0.6, -0.3, 0, 0.3, 0.6, 1].map((step) => {
          const box = el("span", { class: "ramp" });
          box.style.background = changeColor(step, theme);
          return box;
        });
        const less = state.against === null ? "less than before" : `less than in ${state.against}`;
        return [el("span", { class: "key" }, less, el("span", { class: "ramps" }, ...steps), "more"), el("span", { class: "key faint" }, "shares of each side are compared; as wide as both together")];
      });
      return;
    }
    const all = this.groups(tree, zoomed);
    const total = tree.totals[zoomed]!;
    const shown = all.slice(0, NAMED).map(({ name, fn, value }) => ({ name, isMissing: fn.kind === "missing", color: swatch(fn, state.color, theme), part: percent(value, total) }));
    // What is too thin to be told apart is among them.
    const rest = total - all.slice(0, NAMED).reduce((sum, { value }) => sum + value, 0);
    const others = rest > total / 1e4 ? `${all.length > NAMED ? `${all.length - NAMED} more` : "others"} ${percent(rest, total)}` : null;
    fill(place, [shown, others], () => {
      const keys = shown.map(({ name, isMissing, color, part }) => {
        const dot = el("span", { class: isMissing ? "dot missing" : "dot" });
        dot.style.background = color;
        return el("span", { class: "key", title: `self time in ${name}` }, dot, el("span", { class: "key-name" }, basename(name)), el("span", { class: "faint" }, part));
      });
      return [...keys, others === null ? null : el("span", { class: "key faint" }, others)];
    });
  }
}

function including(texts: readonly string[], text: string): string[] {
  return texts.includes(text) ? [...texts] : [...texts, text];
}
