// What the page says when there is nothing to draw: why, and what to do.

import type { Services } from "./api.js";
import { el, type Child } from "./dom.js";
import { clock, isCpu, span, typeName } from "./format.js";
import type { State } from "./state.js";
import type { Tree } from "./tree.js";

export interface Situation {
  data: Services | null;
  tree: Tree | null;
  trouble: string | null;
  state: State;
  waitedMs: number;
  /** Takes filters and what is left out back. */
  onReset(): void;
}

/** The first window is one second long; later than this it is not on its way. */
const FIRST_MS = 4_000;
/** A newcomer waits this long before we say that something may be wrong. */
const PATIENCE_MS = 20_000;

function words(title: string, ...text: Child[]): Node[] {
  return [el("h2", {}, title), ...text.map((child) => el("p", {}, child))];
}

function code(text: string): HTMLElement {
  return el("code", {}, text);
}

/** What to say instead of a graph; `null` if there is a graph. */
export function emptiness({ data, tree, trouble, state, waitedMs, onReset }: Situation): Node[] | null {
  if (tree !== null && (tree.total > 0 || (tree.base?.all ?? 0) > 0)) return null;
  if (trouble !== null && data === null) {
    return words("The server does not answer", `Trying again: ${trouble}.`);
  }
  if (data === null) return words("Looking for samples …");
  if (data.newest_ms === null && data.types.length > 0) {
    return words(`There is no ${typeName(data.type)} here, but there is more`, "Choose what to look at in the list above.");
  }
  if (data.newest_ms === null && data.agent && waitedMs >= FIRST_MS) {
    return words(
      "The machine is idle",
      "The profiler runs and samples wherever a CPU works, but so far hardly anything did. As soon as something does, it is shown here.",
      el("span", {}, "To see something now: ", code("timeout 30 sh -c 'while :; do :; done'")),
      el("span", {}, "If something is busy and does not show: ", code("sudo profiler-daemon doctor")),
    );
  }
  if (data.newest_ms === null) {
    if (waitedMs < PATIENCE_MS) {
      return words("No samples yet", "The first window is one second long, then they come every ten: this page shows the first as soon as it is there.");
    }
    const here = location.origin;
    return [
      ...words(
        "Still no samples",
        "Nobody has pushed a profile to this server yet. Is the profiler running?",
        el("span", {}, code(`sudo profiler-daemon run --server ${here}`)),
        "Anything that pushes to a Pyroscope can push here too: give it this address.",
      ),
    ];
  }
  const until = data.newest_ms;
  const narrowed = state.filters.length + state.only.length + state.hide.length > 0 || state.view === "sandwich";
  if (narrowed) {
    const reset = el("button", { type: "button", class: "chip" }, "Show everything again");
    reset.addEventListener("click", onReset);
    const why = state.view === "sandwich" ? `${state.function} is in no stack of this range.` : "No stack of this range passes all that was chosen.";
    return words("Nothing is left to show", why, reset);
  }
  const cpu = isCpu(data.type);
  if (state.service !== null) {
    return words(
      cpu ? `${state.service} used no CPU here` : `${state.service} has no ${typeName(data.type)} here`,
      "It may be asleep, or it may have ended. Other services are in the list; a longer range reaches back further.",
    );
  }
  if (state.fixed !== null) return words(cpu ? "Nothing used the CPU in this range" : "There is nothing in this range", "Select another part of the graph above, or go back to live.");
  if (data.now_ms - until > state.last * 1000) {
    return words("No samples in this range", `The last ones are of ${clock(until)}, ${span(data.now_ms - until)} ago. Is the profiler still running? A longer range shows what there was.`);
  }
  return cpu
    ? words("The machine is idle", "Samples are taken only where a CPU works. As soon as something does, it is shown here.")
    : words(`There is no ${typeName(data.type)} in this range`, "Programs that push it do so every 10 to 60 seconds.");
}
