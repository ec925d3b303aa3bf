// A part of what was told of services: the range that was selected, and how much of it was measured.

import type { Services } from "./api.js";
import { isLevel } from "./format.js";
import { mean } from "./levels.js";
import type { Between } from "./state.js";

/** `all` as if only `part` had been asked for: points are whole steps, and so are selections. */
export function within(all: Services, part: Between | null): Services {
  if (part === null) return all;
  const first = Math.max(0, Math.round((part.from - all.from_ms) / all.step_ms));
  const end = Math.round((part.until - all.from_ms) / all.step_ms);
  const total = (points: number[]) => {
    const chosen = points.slice(first, end);
    return isLevel(all.type) ? mean(chosen) : chosen.reduce((a, b) => a + b, 0);
  };
  const services = all.services.map((service) => ({ ...service, total: total(service.points) })).sort((a, b) => b.total - a.total);
  const others = { ...all.others, total: total(all.others.points) };
  return { ...all, services, others, total: services.reduce((a, { total }) => a + total, others.total), from_ms: part.from, until_ms: part.until };
}

/** How long of `part`, or of all, something was measured, milliseconds: before the first data nobody looked, which is not idleness. */
export function measuredMs(all: Services, part: Between | null): number {
  const rows = [...all.services, all.others];
  const first = Math.max(0, all.others.points.findIndex((_, step) => rows.some(({ points }) => points[step]! > 0)));
  const { from, until } = part ?? { from: all.from_ms, until: all.until_ms };
  return until - Math.min(Math.max(from, all.from_ms + first * all.step_ms), Math.max(from, until - all.step_ms));
}
