// The buttons above the flame graph: from which end it is read, what is left out, colours, files.

import { columns } from "./columns.js";
import { Question, pprof, type FlameJson, type Parameters } from "./api.js";
import { frameColor } from "./colors.js";
import type { Context } from "./context.js";
import { byId } from "./dom.js";
import { folded, save, speedscope, svg, type Exported } from "./export.js";
import { amount, percent, typeName, unitOf } from "./format.js";
import { PRESETS } from "./presets.js";
import { COLORS, whose, type ColorBy } from "./state.js";
import { Tree } from "./tree.js";

/** As many nodes as the server gives: a file has room. */
const EXPORT_NODES = 200_000;

export class Toolbar {
  private readonly colors = [...document.querySelectorAll<HTMLButtonElement>("[data-color]")];

  /** `parameters` are those of the question for the graph that is shown. */
  constructor(
    private readonly context: Context,
    private readonly parameters: () => Parameters,
  ) {
    byId("invert").addEventListener("click", () => this.invert());
    byId("hide-menu").addEventListener("click", () => this.hide());
    byId("export").addEventListener("click", () => this.offerFiles());
    for (const button of this.colors) button.addEventListener("click", () => context.choose({ color: button.dataset["color"] as ColorBy }, false));
  }

  update(): void {
    const { state } = this.context;
    byId("invert").setAttribute("aria-pressed", String(state.view === "inverted"));
    byId("hide-menu").classList.toggle("active", state.hide.length > 0);
    for (const button of this.colors) button.setAttribute("aria-pressed", String(button.dataset["color"] === state.color));
  }

  invert(): void {
    this.context.choose({ view: this.context.state.view === "inverted" ? "calls" : "inverted", function: null, zoom: [] });
  }

  nextColor(): void {
    this.context.choose({ color: COLORS[(COLORS.indexOf(this.context.state.color) + 1) % COLORS.length]! }, false);
  }

  private hide(): void {
    const { state, choose } = this.context;
    const presets = PRESETS.map(({ title, detail, pattern }) => {
      const checked = state.hide.includes(pattern);
      return { label: title, detail, checked, act: () => choose({ hide: checked ? state.hide.filter((text) => text !== pattern) : [...state.hide, pattern], zoom: [] }) };
    });
    const nothing = state.hide.length + state.only.length === 0 ? [] : [{ label: "Show everything again", act: () => choose({ hide: [], only: [], zoom: [] }) }];
    this.context.menu.below(byId("hide-menu"), [...presets, ...nothing]);
  }

  offerFiles(): void {
    const file = (label: string, detail: string, make: () => Promise<void>) => ({
      label,
      detail,
      act: () => void make().catch((error: unknown) => this.context.notify(`There is no file: ${error instanceof Error ? error.message : error}`)),
    });
    const isSandwich = this.context.state.view === "sandwich";
    const shown = isSandwich ? "whole stacks that pass through the function" : "as shown";
    this.context.menu.below(byId("export"), [
      file("pprof", "all stacks of this range and filter; for go tool pprof", () => this.savePprof()),
      file("Folded stacks", `${shown}, one stack a line`, async () => save(folded(await this.exported(this.stacks())), `${this.name()}.folded`)),
      file("speedscope", `${shown}, for speedscope.app`, async () => save(speedscope(await this.exported(this.stacks())), `${this.name()}.speedscope.json`)),
      file("SVG", isSandwich ? "a picture of callers and callees" : "a picture of the graph", async () => save(await this.picture(), `${this.name()}.svg`)),
    ]);
  }

  private async savePprof(): Promise<void> {
    const { state, type, range } = this.context;
    await save(await pprof(type, whose(state) ?? "{}", range), `${this.name()}.pb.gz`, true);
  }

  /** What a file of stacks is asked for by: a sandwich is made of whole stacks, each with its callers and its callees. */
  private stacks(): Parameters {
    const { view, function: middle, only } = this.context.state;
    if (view !== "sandwich" || middle === null) return {};
    return { view: null, function: null, only: [...only, middle].join("\n") };
  }

  private async picture(): Promise<string> {
    const { state } = this.context;
    const shown = await this.exported({});
    if (state.view !== "sandwich") return svg(shown, shown.tree.find(state.zoom));
    return svg(shown, Math.min(1, shown.tree.count - 1), await this.exported({ view: "callers" }));
  }

  /** What is shown, with what was too light to be sent to a screen; asked for in another way where `other` says so. */
  private async exported(other: Parameters): Promise<Exported> {
    const { state } = this.context;
    const { value } = await new Question<FlameJson>(columns).ask("api/flamegraph", { ...this.parameters(), nodes: EXPORT_NODES, parts: null, below: null, ...other });
    const tree = new Tree(value);
    const unit = unitOf(tree.json.type);
    return {
      tree,
      unit,
      title: this.title(tree.json),
      colorOf: (node) => frameColor(tree.functionOf(node), state.color, "light"),
      said: (value) => `${amount(value, unit)}, ${percent(value, tree.all)}`,
    };
  }

  private title({ from_ms, until_ms, type }: FlameJson): string {
    const { service } = this.context.state;
    const at = (ms: number) => new Date(ms).toISOString().slice(0, 19);
    return `${typeName(type)} of ${service ?? "all services"}, ${at(from_ms)} to ${at(until_ms)} UTC`;
  }

  /** The name of a file, without what file systems do not like. */
  private name(): string {
    const { state, type, range } = this.context;
    const kind = type.split(":").slice(0, 2).join("-");
    const at = new Date(range.end).toISOString().slice(0, 16).replace(":", "-");
    return `${state.service ?? "all"}-${kind}-${at}`.replace(/[^\p{L}\p{N}._-]+/gu, "-");
  }
}
