// The line at the top: is it live, what is measured, since when, and how far it can be trusted.

import type { Services } from "./api.js";
import type { Context } from "./context.js";
import { byId, el, say } from "./dom.js";
import { clock, span, typeName } from "./format.js";
import { describe, figure, gradeOf, qualityOf, type Quality } from "./quality.js";
import { RANGES } from "./state.js";
import type { Tree } from "./tree.js";

/** What the line tells of the server. */
export interface Situation {
  data: Services | null;
  /** Why the last question got no answer. */
  trouble: string | null;
  /** New data waits until nobody looks. */
  looking: boolean;
  /** Age of the newest data, milliseconds. */
  lateMs: number;
}

export class Header {
  private quality: Quality | null = null;

  constructor(private readonly context: Context) {
    const { choose, tooltip } = context;
    for (const [i, { label, title, seconds }] of RANGES.entries()) {
      const button = el("button", { type: "button", title: `${title} (${i + 1})`, "data-last": String(seconds) }, label);
      button.addEventListener("click", () => choose({ last: seconds, fixed: null, selected: null, base: null }));
      byId("ranges").append(button);
    }
    byId("clear-range").addEventListener("click", () => choose({ fixed: null, selected: null, base: null }));
    byId("type").addEventListener("change", (event) => choose({ type: (event.target as HTMLSelectElement).value, service: null, zoom: [] }));
    const place = byId("quality");
    const explain = () => {
      if (this.quality === null) return;
      const { left, bottom } = place.getBoundingClientRect();
      tooltip.show(left - 16, bottom - 12, ...describe(this.quality));
    };
    for (const comes of ["pointerenter", "focus"]) place.addEventListener(comes, explain);
    for (const goes of ["pointerleave", "blur"]) place.addEventListener(goes, () => tooltip.hide());
  }

  update(situation: Situation): void {
    const { state } = this.context;
    const [mode, text] = this.mode(situation);
    const live = byId("live");
    live.dataset["mode"] = mode;
    say(byId("live-text"), text);
    live.setAttribute("aria-pressed", String(state.fixed === null));
    document.querySelectorAll<HTMLElement>("#ranges button").forEach((button) => {
      button.setAttribute("aria-pressed", String(state.fixed === null && button.dataset["last"] === String(state.last)));
    });
    const clear = byId("clear-range");
    clear.hidden = state.fixed === null;
    const part = state.selected ?? state.fixed;
    if (part !== null) say(clear, `${clock(part.from)} – ${clock(part.until)}  ×  back to live`);
    this.showTypes(situation.data?.types ?? []);
    document.title = state.service === null ? "profiler-daemon" : `${state.service} · profiler-daemon`;
  }

  /** How many stacks of what is asked for are whole: of CPU time as it was called, for nothing else says where stacks were cut. */
  showQuality(tree: Tree | null): void {
    const { state, type } = this.context;
    const tells = tree !== null && tree.total > 0 && type.startsWith("process_cpu:cpu:") && state.view === "calls" && state.hide.length + state.only.length === 0;
    this.quality = tells ? qualityOf(tree) : null;
    const place = byId("quality");
    place.hidden = this.quality === null;
    if (this.quality !== null) {
      say(place, figure(this.quality));
      place.dataset["grade"] = gradeOf(this.quality);
    }
  }

  private mode({ data, trouble, looking, lateMs }: Situation): [string, string] {
    const { state } = this.context;
    const interval = data?.interval_ms ?? 0;
    if (trouble !== null) return ["gone", trouble];
    if (state.fixed !== null) return ["paused", state.selected === null ? "paused" : state.base === null ? "selection" : "comparison"];
    if (data === null) return ["waiting", "connecting"];
    if (data.newest_ms === null) return ["waiting", "waiting for samples"];
    if (lateMs > Math.max(3 * interval, 15_000)) return ["waiting", `no data for ${span(lateMs)}`];
    return looking ? ["paused", "paused while you look"] : ["live", `live · ${span(interval)}`];
  }

  private showTypes(types: string[]): void {
    const { type } = this.context;
    const select = byId<HTMLSelectElement>("type");
    select.hidden = types.length < 2 && (types.length === 0 || types[0] === type);
    const wanted = types.includes(type) ? types : [type, ...types];
    const known = [...select.options].map(({ value }) => value);
    if (known.join() !== wanted.join()) select.replaceChildren(...wanted.map((value) => el("option", { value, title: value }, typeName(value))));
    select.value = type;
  }
}
