// What is there at a moment, such as memory in use: of many profiles the mean says something, the sum nothing. Services and
// their points are made means here, so that whatever draws them need not know.

import type { Services } from "./api.js";
import { isLevel } from "./format.js";

/** The mean of those points where there was something. */
export function mean(points: readonly number[]): number {
  const there = points.filter((value) => value > 0);
  return there.length === 0 ? 0 : there.reduce((sum, value) => sum + value, 0) / there.length;
}

/** `data` as it is, or made of means if its type is a level. */
export function levelled(data: Services): Services {
  if (!isLevel(data.type)) return data;
  // A profile's value is spread over its window: what a step got is the level times the part of windows in it.
  const scale = Math.min(1, (data.interval_ms ?? data.step_ms) / data.step_ms);
  const scaled = (points: number[]) => points.map((value) => value * scale);
  const services = data.services.map(({ name, points }) => {
    const levels = scaled(points);
    return { name, points: levels, total: mean(levels) };
  });
  const points = scaled(data.others.points);
  const others = { ...data.others, points, total: mean(points) };
  return { ...data, services, others, total: services.reduce((sum, { total }) => sum + total, others.total) };
}
