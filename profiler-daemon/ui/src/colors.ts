// Which colour means what. Colours of modules and services are given out as they are first seen, heaviest first, and kept:
// the next refresh paints nothing anew.

import { hash, type Fn } from "./tree.js";
import type { ColorBy } from "./state.js";

export type Theme = "dark" | "light";

/** Hues that are well apart, for people with common kinds of colour blindness too; amber is the kernel's. */
const MODULE_HUES = [252, 165, 312, 208, 350, 135, 282, 20, 190, 230];
const KERNEL_HUE = 72;

const moduleHues = new Map<string, number>();

/** Gives hues to modules in the order in which they matter. */
export function meet(modules: { fn: Fn }[]): void {
  for (const { fn } of modules) hueOf(fn);
}

function hueOf(fn: Fn): number {
  if (fn.kind === "kernel") return KERNEL_HUE;
  let hue = moduleHues.get(fn.module);
  if (hue === undefined) {
    hue = MODULE_HUES[moduleHues.size] ?? (hash(fn.module) % 24) * 15;
    moduleHues.set(fn.module, hue);
  }
  return hue;
}

/** The colour of a frame, and whether it is drawn hatched: a frame that is not known. */
export function frameColor(fn: Fn, by: ColorBy, theme: Theme): string {
  // Neighbours of one module differ a little, so that their borders can be seen.
  const shade = ((hash(fn.name) >>> 8) % 7) / 7 - 0.5;
  if (fn.kind === "missing") return theme === "dark" ? "oklch(0.34 0.005 260)" : "oklch(0.87 0.005 260)";
  const hue = by === "kind" && fn.kind === "user" ? 252 : hueOf(fn);
  return theme === "dark"
    ? `oklch(${(0.505 + shade * 0.07).toFixed(3)} 0.092 ${hue})`
    : `oklch(${(0.845 + shade * 0.06).toFixed(3)} 0.085 ${hue})`;
}

/** The colour of a module in the legend. */
export function swatch(fn: Fn, by: ColorBy, theme: Theme): string {
  return frameColor({ ...fn, name: "" }, by, theme);
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
export const INK: Record<Theme, { text: string; faint: string; grid: string; ground: string; accent: string; frameText: string; hatch: string; others: string; select: string; match: string }> = {
  dark: {
    text: "#c9d1dc",
    faint: "#8b95a5",
    grid: "rgba(255,255,255,0.07)",
    ground: "#12161d",
    accent: "#6ea8fe",
    frameText: "#f4f6fa",
    hatch: "rgba(255,255,255,0.13)",
    others: "#4c5666",
    select: "rgba(110,168,254,0.16)",
    match: "#ffd75e",
  },
  light: {
    text: "#2b3340",
    faint: "#667085",
    grid: "rgba(15,23,42,0.08)",
    ground: "#ffffff",
    accent: "#2f6fe4",
    frameText: "#141a24",
    hatch: "rgba(15,23,42,0.16)",
    others: "#b4bcc9",
    select: "rgba(47,111,228,0.12)",
    match: "#d6336c",
  },
};
