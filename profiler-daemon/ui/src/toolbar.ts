// The buttons above the flame graph: from which end it is read, what is left out, colours, files.

import { Question, pprof, type FlameJson } from "./api.js";
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
    private readonly parameters: () => Record<string, string | number | null>,
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
    this.context.menu.below(byId("export"), [
      file("pprof", "all stacks of this range and filter; for go tool pprof", () => this.savePprof()),
      file("Folded stacks", "as shown, one stack a line", async () => save(folded(await this.exported()), `${this.name()}.folded`)),
      file("speedscope", "as shown, for speedscope.app", async () => save(speedscope(await this.exported()), `${this.name()}.speedscope.json`)),
      file("SVG", "a picture of the graph", async () => {
        const exported = await this.exported();
        await save(svg(exported, exported.tree.find(this.context.state.zoom)), `${this.name()}.svg`);
      }),
    ]);
  }

  private async savePprof(): Promise<void> {
    const { state, type, range } = this.context;
    await save(await pprof(type, whose(state) ?? "{}", range), `${this.name()}.pb.gz`, true);
  }

  /** What is shown, with what was too light to be sent to a screen. */
  private async exported(): Promise<Exported> {
    const { state } = this.context;
    // A sandwich is two pictures; what it calls is the one that folds.
    const { value } = await new Question<FlameJson>().ask("api/flamegraph", { ...this.parameters(), nodes: EXPORT_NODES });
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
