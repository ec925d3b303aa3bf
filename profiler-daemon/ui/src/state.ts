// What the person chose. All of it is in the address, so that a link shows what they saw.

import { read, selector, written, type Filter } from "./selector.js";

/** From and until, milliseconds since the epoch. */
export interface Between {
  from: number;
  until: number;
}

export const COLORS = ["module", "package", "kind"] as const;
export type ColorBy = (typeof COLORS)[number];

/** From which end stacks are read; a sandwich is one function between its callers and its callees. */
export type View = "calls" | "inverted" | "sandwich";

export interface State {
  /** The label that services are told apart by; `service_name` mostly. */
  group: string;
  /** Only this service, or all: a value of that label. */
  service: string | null;
  /** Conditions on labels. */
  filters: Filter[];
  /** Length of the range that ends now, seconds. */
  last: number;
  /** The range stands still here: paused. */
  fixed: Between | null;
  /** A part of it that was selected; only then fixed. */
  selected: Between | null;
  /** Another part that the selected one is compared with; only with a selection. */
  base: Between | null;
  /** Another service that the chosen one is compared with. */
  against: string | null;
  /** Keys of the frames from the root to the one that fills the graph. */
  zoom: string[];
  query: string;
  /** What values count; null is CPU time. */
  type: string | null;
  color: ColorBy;
  view: View;
  /** The function in the middle of a sandwich. */
  function: string | null;
  /** Functions that are left out: names, or `/…/`. */
  hide: string[];
  /** Functions that a stack must pass through: names, or `/…/`. */
  only: string[];
}

/** What services are told apart by unless something else is chosen. */
export const GROUP = "service_name";

/** Ranges on the buttons, seconds. */
export const RANGES: readonly { label: string; title: string; seconds: number }[] = [
  { label: "1 m", title: "the last minute", seconds: 60 },
  { label: "5 m", title: "the last 5 minutes", seconds: 300 },
  { label: "15 m", title: "the last 15 minutes", seconds: 900 },
  { label: "1 h", title: "the last hour", seconds: 3600 },
  { label: "6 h", title: "the last 6 hours", seconds: 21_600 },
  { label: "24 h", title: "the last day", seconds: 86_400 },
];

const DEFAULT_LAST = 900;
/** No longer range is answered, milliseconds. */
export const RANGE_MAX = 86_400_000;

/** Reads an address; what makes no sense is as if it were not there. */
export function parse(hash: string): State {
  const given = new URLSearchParams(hash.replace(/^#/, ""));
  const number = (name: string): number | null => {
    const value = Number(given.get(name) ?? NaN);
    return Number.isSafeInteger(value) && value > 0 ? value : null;
  };
  const between = (from: number | null, until: number | null): Between | null =>
    from !== null && until !== null && from < until ? { from, until } : null;
  const texts = (name: string) => given.getAll(name).filter((text) => text !== "" && !text.includes("\n"));
  const fixed = between(number("from"), number("until"));
  const selected = fixed === null ? null : between(number("since"), number("to"));
  const middle = given.get("function") || null;
  const view = given.get("view");
  return {
    group: given.get("group") || GROUP,
    service: given.get("service"),
    filters: given.getAll("where").flatMap((text) => read(text) ?? []),
    last: Math.min(number("last") ?? DEFAULT_LAST, 86_400),
    fixed,
    selected,
    base: selected === null ? null : between(number("base-since"), number("base-to")),
    against: given.get("against"),
    zoom: (given.get("zoom") ?? "").split(".").filter((key) => /^[0-9a-z]{1,7}$/.test(key)),
    query: given.get("q") ?? "",
    type: given.get("type"),
    color: COLORS.find((color) => color === given.get("color")) ?? "module",
    view: view === "inverted" ? view : view === "sandwich" && middle !== null ? view : "calls",
    function: view === "sandwich" ? middle : null,
    hide: texts("hide"),
    only: texts("only"),
  };
}

/** Writes an address; what is usual is left out. */
export function write(state: State): string {
  const out = new URLSearchParams();
  if (state.group !== GROUP) out.set("group", state.group);
  if (state.service !== null) out.set("service", state.service);
  for (const filter of state.filters) out.append("where", written(filter));
  if (state.last !== DEFAULT_LAST) out.set("last", String(state.last));
  const between = (names: [string, string], range: Between | null) => {
    if (range === null) return;
    out.set(names[0], String(range.from));
    out.set(names[1], String(range.until));
  };
  between(["from", "until"], state.fixed);
  between(["since", "to"], state.selected);
  between(["base-since", "base-to"], state.base);
  if (state.against !== null) out.set("against", state.against);
  if (state.type !== null) out.set("type", state.type);
  if (state.query !== "") out.set("q", state.query);
  if (state.color !== "module") out.set("color", state.color);
  if (state.view !== "calls") out.set("view", state.view);
  if (state.view === "sandwich" && state.function !== null) out.set("function", state.function);
  for (const text of state.hide) out.append("hide", text);
  for (const text of state.only) out.append("only", text);
  if (state.zoom.length > 0) out.set("zoom", state.zoom.join("."));
  return `#${out}`;
}

/** Whose profiles are asked for, as a selector: the conditions and the chosen service; `null` if all are. */
export function whose(state: State): string | null {
  const filters = state.service === null ? state.filters : [...state.filters, { name: state.group, operator: "=" as const, value: state.service }];
  return filters.length === 0 ? null : selector(filters);
}

/** Does a name match what is searched? `/…/` is an expression, all else is part of the name in any case. */
export function matcher(query: string): ((name: string) => boolean) | null {
  const text = query.trim();
  if (text === "") return null;
  const expression = /^\/(.+)\/$/.exec(text);
  if (expression !== null) {
    try {
      const pattern = new RegExp(expression[1]!, "i");
      return (name) => pattern.test(name);
    } catch {
      // Not finished yet: taken by the letter.
    }
  }
  const lower = text.toLowerCase();
  return (name) => name.toLowerCase().includes(lower);
}
