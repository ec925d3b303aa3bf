// What the person chose. All of it is in the address, so that a link shows what they saw.

/** From and until, milliseconds since the epoch. */
export interface Between {
  from: number;
  until: number;
}

export type ColorBy = "module" | "kind";

export interface State {
  /** Only this service, or all. */
  service: string | null;
  /** Length of the range that ends now, seconds. */
  last: number;
  /** The range stands still here: paused. */
  fixed: Between | null;
  /** A part of it that was selected; only then fixed. */
  selected: Between | null;
  /** Keys of the frames from the root to the one that fills the graph. */
  zoom: string[];
  query: string;
  /** What values count; null is CPU time. */
  type: string | null;
  color: ColorBy;
}

/** Ranges on the buttons, seconds. */
export const RANGES: readonly { label: string; title: string; seconds: number }[] = [
  { label: "1 m", title: "the last minute", seconds: 60 },
  { label: "5 m", title: "the last 5 minutes", seconds: 300 },
  { label: "15 m", title: "the last 15 minutes", seconds: 900 },
  { label: "1 h", title: "the last hour", seconds: 3600 },
];

const DEFAULT_LAST = 900;

/** Reads an address; what makes no sense is as if it were not there. */
export function parse(hash: string): State {
  const given = new URLSearchParams(hash.replace(/^#/, ""));
  const number = (name: string): number | null => {
    const value = Number(given.get(name) ?? NaN);
    return Number.isSafeInteger(value) && value > 0 ? value : null;
  };
  const between = (from: number | null, until: number | null): Between | null =>
    from !== null && until !== null && from < until ? { from, until } : null;
  const fixed = between(number("from"), number("until"));
  return {
    service: given.get("service"),
    last: Math.min(number("last") ?? DEFAULT_LAST, 86_400),
    fixed,
    selected: fixed === null ? null : between(number("since"), number("to")),
    zoom: (given.get("zoom") ?? "").split(".").filter((key) => key !== ""),
    query: given.get("q") ?? "",
    type: given.get("type"),
    color: given.get("color") === "kind" ? "kind" : "module",
  };
}

/** Writes an address; what is usual is left out. */
export function write(state: State): string {
  const out = new URLSearchParams();
  if (state.service !== null) out.set("service", state.service);
  if (state.last !== DEFAULT_LAST) out.set("last", String(state.last));
  if (state.fixed !== null) {
    out.set("from", String(state.fixed.from));
    out.set("until", String(state.fixed.until));
  }
  if (state.selected !== null) {
    out.set("since", String(state.selected.from));
    out.set("to", String(state.selected.until));
  }
  if (state.type !== null) out.set("type", state.type);
  if (state.query !== "") out.set("q", state.query);
  if (state.color !== "module") out.set("color", state.color);
  if (state.zoom.length > 0) out.set("zoom", state.zoom.join("."));
  return `#${out}`;
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
