// Numbers as people say them.

/** What values count: the third part of a profile type. */
export type Unit = "time" | "bytes" | "count";

/** The unit of a type such as `process_cpu:cpu:nanoseconds:cpu:nanoseconds`. */
export function unitOf(type: string): Unit {
  const unit = type.split(":")[2] ?? "";
  return unit === "nanoseconds" ? "time" : unit === "bytes" ? "bytes" : "count";
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
  return `${unit === 0 ? count : digits(count)} ${units[unit]}`;
}

function count(value: number): string {
  if (value < 10_000) return String(value);
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

const clockSeconds = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
const clockMinutes = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hour12: false });

/** A time of day. */
export function clock(ms: number, withSeconds = true): string {
  return (withSeconds ? clockSeconds : clockMinutes).format(ms);
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
