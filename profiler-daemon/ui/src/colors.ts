// Which colour means what. Colours of modules, packages and services are given out as they are first seen, heaviest first, and kept:
// the next refresh paints nothing anew.

import { BRACKETED } from "./api.js";
import { hash } from "./hash.js";
import type { Fn, Tree } from "./tree.js";
import type { ColorBy } from "./state.js";

export type Theme = "dark" | "light";

/** Hues that are well apart, for people with common kinds of colour blindness too; amber is the kernel's. */
const HUES = [252, 165, 312, 208, 350, 135, 282, 20, 190, 230];
const KERNEL_HUE = 72;

const hues: Record<ColorBy, Map<string, number>> = { module: new Map(), package: new Map(), kind: new Map() };

/** What frames of one colour have in common. */
export function groupOf(fn: Fn, by: ColorBy): string {
  if (fn.kind === "kernel") return "kernel";
  if (fn.kind === "missing") return "not known";
  if (by === "kind") return "user";
  const name = by === "package" ? fn.package : fn.module;
  return name === "" ? "unknown file" : name;
}

/** Gives hues to groups in the order in which they matter. */
export function meet(groups: { fn: Fn }[], by: ColorBy): void {
  for (const { fn } of groups) hueOf(fn, by);
}

function hueOf(fn: Fn, by: ColorBy): number {
  if (fn.kind === "kernel") return KERNEL_HUE;
  if (by === "kind") return 252;
  const group = groupOf(fn, by);
  const known = hues[by];
  let hue = known.get(group);
  if (hue === undefined) {
    hue = HUES[known.size] ?? (hash(group) % 24) * 15;
    known.set(group, hue);
  }
  return hue;
}

/** A colour of Oklch as `#rrggbb`, which canvases read fastest and every viewer of an SVG knows. Björn Ottosson's matrices. */
export function oklch(lightness: number, chroma: number, hue: number): string {
  const [a, b] = [chroma * Math.cos((hue * Math.PI) / 180), chroma * Math.sin((hue * Math.PI) / 180)];
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  const linear = [4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s, -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s, -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s];
  const hex = (part: number) => {
    const light = part <= 0.0031308 ? 12.92 * part : 1.055 * part ** (1 / 2.4) - 0.055;
    return Math.round(Math.min(1, Math.max(0, light)) * 255).toString(16).padStart(2, "0");
  };
  return `#${linear.map(hex).join("")}`;
}

/** Shades of one hue: neighbours of one group differ a little, so that their borders can be seen. */
const SHADES = 7;
/** The shade in the middle. */
const PLAIN = SHADES / 2;
const UNKNOWN: Record<Theme, string> = { dark: oklch(0.34, 0.005, 260), light: oklch(0.87, 0.005, 260) };

/** Of each hue the shades that were made: there are few, and thousands of frames are painted with them. */
const shades: Record<Theme, Map<number, string>> = { dark: new Map(), light: new Map() };

/** The colour of a frame; one that is not known is drawn hatched too. */
export function frameColor(fn: Fn, by: ColorBy, theme: Theme): string {
  return shaded(fn, by, theme, (fn.mark >>> 8) % SHADES);
}

/** The colours of a tree's functions, which are no objects for that: of most nobody asks more than what they look like. */
export class Palette {
  /** Of each module the shades of its functions, where they have one hue. */
  private readonly shades: (string[] | undefined)[] = [];

  constructor(
    private readonly tree: Tree,
    private readonly by: ColorBy,
    private readonly theme: Theme,
  ) {}

  /** The colour of the function of that number, as `frameColor` has it. */
  of(index: number): string {
    const { tree, by, theme } = this;
    const { module, shade } = tree.json.functions;
    if (by === "package" || shade[index] === BRACKETED) return frameColor(tree.functionAt(index), by, theme);
    const shades = (this.shades[module[index]!] ??= Array.from({ length: SHADES }, (_, shade) => shaded(tree.functionAt(index), by, theme, shade)));
    return shades[shade[index]!]!;
  }
}

function shaded(fn: Fn, by: ColorBy, theme: Theme, shade: number): string {
  if (fn.kind === "missing") return UNKNOWN[theme];
  const hue = hueOf(fn, by);
  const key = hue * SHADES + shade;
  let color = shades[theme].get(key);
  if (color === undefined) {
    const by = shade / SHADES - 0.5;
    color = theme === "dark" ? oklch(0.505 + by * 0.07, 0.092, hue) : oklch(0.845 + by * 0.06, 0.085, hue);
    shades[theme].set(key, color);
  }
  return color;
}

/** The colour of a group in the legend. */
export function swatch(fn: Fn, by: ColorBy, theme: Theme): string {
  return shaded(fn, by, theme, PLAIN);
}

/** Less is blue, more is orange, which most people tell apart; what changed by less than a twentieth is neither. */
export function changeColor(change: number, theme: Theme): string {
  const strength = Math.abs(change) < 0.05 ? 0 : Math.ceil(Math.min(1, Math.abs(change)) * 6) / 6;
  const hue = change < 0 ? 250 : 60;
  return theme === "dark" ? oklch(0.42 + strength * 0.12, strength * 0.13, hue) : oklch(0.9 - strength * 0.14, strength * 0.13, hue);
}

const SERVICE_COLORS: Record<Theme, readonly string[]> = {
  dark: ["#6ea8fe", "#5fd3b3", "#f2b35e", "#c492f5", "#f58ba5", "#9bd45f", "#58c8ec", "#e0d060", "#e8956b", "#9aa4f8"],
  light: ["#2f6fe4", "#0f9d7a", "#d9822b", "#8e4fd6", "#d6456b", "#5c9a1f", "#1594c4", "#a98f0b", "#c45d2c", "#5563d9"],
};

const serviceNumbers = new Map<string, number>();

/** The colour of a service. */
export function serviceColor(name: string, theme: Theme): string {
  let number = serviceNumbers.get(name);
  if (number === undefined) {
    number = serviceNumbers.size;
    serviceNumbers.set(name, number);
  }
  const colors = SERVICE_COLORS[theme];
  return colors[number % colors.length]!;
}

/** What is drawn on canvas beside data. */
export const INK: Record<Theme, { text: string; faint: string; grid: string; ground: string; accent: string; frameText: string; root: string; hatch: string; fringe: string; others: string; select: string; before: string; beforeEdge: string; match: string }> = {
  dark: {
    text: "#c9d1dc",
    faint: "#8b95a5",
    grid: "rgba(255,255,255,0.07)",
    ground: "#12161d",
    accent: "#6ea8fe",
    frameText: "#f4f6fa",
    root: "#232a36",
    hatch: "rgba(255,255,255,0.13)",
    fringe: "rgba(255,255,255,0.11)",
    others: "#4c5666",
    select: "rgba(110,168,254,0.16)",
    before: "rgba(242,179,94,0.15)",
    beforeEdge: "#f2b35e",
    match: "#ffd75e",
  },
  light: {
    text: "#2b3340",
    faint: "#667085",
    grid: "rgba(15,23,42,0.08)",
    ground: "#ffffff",
    accent: "#2f6fe4",
    frameText: "#141a24",
    root: "#e6eaf0",
    hatch: "rgba(15,23,42,0.16)",
    fringe: "rgba(15,23,42,0.11)",
    others: "#b4bcc9",
    select: "rgba(47,111,228,0.12)",
    before: "rgba(196,104,20,0.13)",
    beforeEdge: "#c46814",
    match: "#d6336c",
  },
};
