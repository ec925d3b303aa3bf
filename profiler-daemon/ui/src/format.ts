// Numbers as people say them.

/** What values count: the third part of a profile type. */
export type Unit = "time" | "bytes" | "count";

/** The unit of a type such as `process_cpu:cpu:nanoseconds:cpu:nanoseconds`. */
export function unitOf(type: string): Unit {
  const unit = type.split(":")[2] ?? "";
  return unit === "nanoseconds" ? "time" : unit === "bytes" ? "bytes" : "count";
}

/** What is counted, where a number alone does not say it. */
export function nounOf(type: string): string {
  const [name = "", kind = "", unit = ""] = type.split(":");
  if (unit === "nanoseconds" || unit === "bytes") return "";
  if (kind.endsWith("objects")) return "objects";
  if (name.startsWith("goroutine")) return "goroutines";
  return ["samples", "contentions", "exceptions", "lock", "locks"].includes(kind) ? kind : unit === "count" ? kind : unit;
}

/** True for what is there at a moment, such as memory in use: of many profiles the mean says something, the sum nothing. */
export function isLevel(type: string): boolean {
  const [name = "", kind = ""] = type.split(":");
  return kind.startsWith("inuse") || kind === "live" || name.startsWith("goroutine");
}

const TYPES: Record<string, string> = {
  "process_cpu:cpu:nanoseconds": "CPU time",
  "process_cpu:samples:count": "CPU samples",
  "wall:wall:nanoseconds": "Wall time",
  "memory:inuse_space:bytes": "Memory in use",
  "memory:inuse_objects:count": "Objects in use",
  "memory:alloc_space:bytes": "Memory allocated",
  "memory:alloc_objects:count": "Objects allocated",
  "memory:alloc_in_new_tlab_bytes:bytes": "Memory allocated",
  "memory:alloc_in_new_tlab_objects:count": "Objects allocated",
  "mutex:contentions:count": "Mutex contentions",
  "mutex:delay:nanoseconds": "Time waited for mutexes",
  "block:contentions:count": "Times blocked",
  "block:delay:nanoseconds": "Time blocked",
  "goroutine:goroutine:count": "Goroutines",
  "goroutines:goroutine:count": "Goroutines",
  "goroutines:goroutines:count": "Goroutines",
};

/** A type as people call it. */
export function typeName(type: string): string {
  const [name = "", kind = "", unit = ""] = type.split(":");
  return TYPES[`${name}:${kind}:${unit}`] ?? `${name}: ${kind} (${unit})`;
}

/** True for CPU time, which can be said in cores. */
export function isCpu(type: string): boolean {
  const [name, kind, unit] = type.split(":");
  return name === "process_cpu" && kind === "cpu" && unit === "nanoseconds";
}

/** Three digits that matter, never an exponent. */
function digits(value: number): string {
  if (value === 0) return "0";
  const places = value >= 100 ? 0 : value >= 10 ? 1 : value >= 1 ? 2 : 3;
  return value.toFixed(places);
}

/** A duration in nanoseconds. */
export function time(ns: number): string {
  if (ns === 0) return "0 s";
  if (ns < 1e6) return `${digits(ns / 1e3)} µs`;
  if (ns < 1e9) return `${digits(ns / 1e6)} ms`;
  if (ns < 120e9) return `${digits(ns / 1e9)} s`;
  if (ns < 7200e9) return `${digits(ns / 60e9)} min`;
  return `${digits(ns / 3600e9)} h`;
}

function bytes(count: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (count >= 1024 && unit < units.length - 1) {
    count /= 1024;
    unit++;
  }
  return `${unit === 0 ? Math.round(count) : digits(count)} ${units[unit]}`;
}

function count(value: number): string {
  // A mean of counts is seldom whole.
  if (value < 10_000) return Number.isInteger(value) ? String(value) : digits(value);
  if (value < 1e6) return `${digits(value / 1e3)} k`;
  return `${digits(value / 1e6)} M`;
}

/** A value of a profile. */
export function amount(value: number, unit: Unit): string {
  return unit === "time" ? time(value) : unit === "bytes" ? bytes(value) : count(value);
}

/** CPUs kept busy. */
export function cores(value: number): string {
  if (value > 0 && value < 0.001) return "< 0.001 cores";
  return `${digits(value)} ${value === 1 ? "core" : "cores"}`;
}

/** A part of a whole. */
export function percent(part: number, whole: number): string {
  if (whole <= 0 || part <= 0) return "0 %";
  const value = (part / whole) * 100;
  if (value < 0.01) return "< 0.01 %";
  return `${value >= 99.95 ? "100" : value >= 10 ? value.toFixed(1) : value.toFixed(2)} %`;
}

/** A change of a share, in points of a hundred. */
export function signed(points: number): string {
  const value = points * 100;
  if (Math.abs(value) < 0.005) return "unchanged";
  return `${value > 0 ? "+" : "−"}${Math.abs(value).toFixed(Math.abs(value) >= 10 ? 1 : 2)} points`;
}

/** What became of a value, in words; `null` where nothing is to be said. */
export function changed(now: number, before: number): string | null {
  if (now <= 0 || before <= 0) return null;
  const times = now / before;
  if (times >= 2) return `${times < 10 ? times.toFixed(1) : Math.round(times)} times as much as before`;
  const points = Math.round((times - 1) * 100);
  return points === 0 ? "as much as before" : `${Math.abs(points)} % ${points > 0 ? "more" : "less"} than before`;
}

const two = (part: number) => String(part).padStart(2, "0");

/** A time of day, of this place's clock. By hand: the first formatter of `Intl` costs a page 15 ms. */
export function clock(ms: number, withSeconds = true): string {
  const at = new Date(ms);
  const minutes = `${two(at.getHours())}:${two(at.getMinutes())}`;
  return withSeconds ? `${minutes}:${two(at.getSeconds())}` : minutes;
}

/** A length of time in milliseconds, short. */
export function span(ms: number): string {
  const s = Math.round(ms / 1000);
  if (s < 120) return `${s} s`;
  if (s < 7200) return s % 60 === 0 ? `${s / 60} min` : `${Math.floor(s / 60)} min ${s % 60} s`;
  return `${digits(s / 3600)} h`;
}

/** The last part of a path, which is what people call a module. */
export function basename(path: string): string {
  return path.slice(path.lastIndexOf("/") + 1) || path;
}
