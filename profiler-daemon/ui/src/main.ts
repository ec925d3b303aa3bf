// Brings the parts of the page together: what was chosen, what is asked of the server and when, what is shown.

import { Question, type FlameJson, type Services } from "./api.js";
import { Chart } from "./chart.js";
import { meet, swatch, type Theme } from "./colors.js";
import { byId, el, Tooltip } from "./dom.js";
import { emptiness } from "./empty.js";
import { FlameGraph } from "./flame.js";
import { amount, basename, clock, cores, isCpu, percent, span, unitOf } from "./format.js";
import { describe, figure, qualityOf, type Quality } from "./quality.js";
import { ServiceList } from "./services.js";
import { matcher, parse, RANGES, write, type Between, type State } from "./state.js";
import { FunctionTable } from "./table.js";
import { Tree } from "./tree.js";

/** A pointer that rests this long over the graph reads no more. */
const LOOK_MS = 20_000;
/** After the end of a window: until it is named, pushed and stored. */
const LAG_MS = 700;

let state: State = parse(location.hash);
let data: Services | null = null;
let tree: Tree | null = null;
let quality: Quality | null = null;
let trouble: string | null = null;
let failures = 0;
let timer = 0;
/** The server's clock minus ours. */
let skew = 0;
const opened = Date.now();
let looked = 0;
/** What has come while someone looked, and is shown when they look away. */
let looking = false;

const servicesQuestion = new Question<Services>();
const flameQuestion = new Question<FlameJson>();
const tooltip = new Tooltip();
const search = byId<HTMLInputElement>("search");

const list = new ServiceList(byId("services"), (service) => choose({ service, zoom: [] }));
const chart = new Chart({
  canvas: byId<HTMLCanvasElement>("chart"),
  holder: byId("chart-holder"),
  tooltip,
  onSelect: (from, until) => {
    const fixed = state.fixed ?? (data === null ? null : { from: data.from_ms, until: data.until_ms });
    choose({ fixed, selected: { from, until } });
  },
});
const flame = new FlameGraph({
  scroller: byId("flame-scroller"),
  canvas: byId<HTMLCanvasElement>("flame"),
  spacer: byId("flame-spacer"),
  tooltip,
  onZoom: (node) => {
    // A click on the frame that fills the graph leads back, as one expects of a second click.
    const target = node === flame.zoomed && node !== 0 ? tree!.parent[node]! : node;
    choose({ zoom: tree!.keys(target) });
  },
  onHover: (fn) => table.highlight(fn?.key ?? null),
});
const table = new FunctionTable({
  table: byId<HTMLTableElement>("functions"),
  more: byId<HTMLButtonElement>("more"),
  note: byId("table-note"),
  onHover: (fn) => flame.highlight(fn?.key ?? null),
  onChoose: (fn) => choose({ query: state.query === fn.name ? "" : fn.name }, false),
});

// ── What was chosen ──────────────────────────────────────────────────────────────────────────────────────────────

/** Takes a choice over and shows what follows from it. Steps that one wants to take back go into the history. */
function choose(change: Partial<State>, step = true): void {
  const before = state;
  state = { ...state, ...change };
  const address = write(state);
  if (address !== location.hash) {
    if (step) history.pushState(null, "", address);
    else history.replaceState(null, "", address);
  }
  follow(before);
}

function follow(before: State): void {
  const asked = (s: State) => JSON.stringify([s.service, s.last, s.fixed, s.selected, s.type]);
  if (asked(before) !== asked(state)) {
    looking = false;
    void refresh();
    showServices();
  }
  if (search.value !== state.query && document.activeElement !== search) search.value = state.query;
  if (before.color !== state.color) paint();
  if (before.query !== state.query) showSearch();
  if (tree !== null && before.zoom.join() !== state.zoom.join()) {
    flame.zoomTo(tree.find(state.zoom));
    showZoom();
  }
  showControls();
}

window.addEventListener("popstate", () => {
  const before = state;
  state = parse(location.hash);
  search.value = state.query;
  follow(before);
});

// ── Asking ───────────────────────────────────────────────────────────────────────────────────────────────────────

function range(between: Between | null): Record<string, number | null> {
  return between === null ? { last: state.last } : { from: between.from, until: between.until };
}

async function refresh(): Promise<void> {
  clearTimeout(timer);
  const wanted = state;
  try {
    const [services, graph] = await Promise.all([
      servicesQuestion.ask("api/services", { ...range(state.fixed), type: state.type, points: 120 }),
      flameQuestion.ask("api/flamegraph", { ...range(state.selected ?? state.fixed), service: state.service, type: state.type }),
    ]);
    failures = 0;
    trouble = null;
    if (services.changed) {
      data = services.value;
      skew = data.now_ms - Date.now();
      showServices();
    }
    if (graph.changed) {
      tree = new Tree(graph.value);
      meet(tree.modules(0));
      showTree();
    }
  } catch (error) {
    // A newer question took this one's place.
    if (wanted !== state || (error instanceof DOMException && error.name === "AbortError")) return;
    failures++;
    trouble = error instanceof TypeError ? "the server does not answer" : error instanceof Error ? error.message : String(error);
    servicesQuestion.forget();
    flameQuestion.forget();
  }
  showControls();
  showEmptiness();
  schedule();
}

/** The next question comes when there is something new, and not while nobody sees the page. */
function schedule(): void {
  clearTimeout(timer);
  if (document.hidden || (state.fixed !== null && failures === 0 && data !== null)) return;
  timer = setTimeout(tick, pause());
}

function pause(): number {
  if (failures > 0) return Math.min(1000 * 2 ** failures, 15_000);
  if (data === null || data.newest_ms === null || data.interval_ms === null) return Date.now() - opened < 60_000 ? 1000 : 5000;
  const interval = Math.max(data.interval_ms, 2000);
  const due = data.newest_ms + data.interval_ms + LAG_MS - (Date.now() + skew);
  // What is overdue is asked for less and less eagerly.
  return due > 0 ? Math.min(due, interval) : Math.min(Math.max(1000, -due / 2), interval);
}

function tick(): void {
  looking = state.fixed === null && Date.now() - looked < LOOK_MS;
  if (looking) {
    showControls();
    timer = setTimeout(tick, 1000);
  } else void refresh();
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) clearTimeout(timer);
  else tick();
});
for (const id of ["flame-scroller", "functions"]) {
  const place = byId(id);
  place.addEventListener("pointermove", () => (looked = Date.now()));
  place.addEventListener("pointerleave", () => {
    looked = 0;
    if (looking) tick();
  });
}

// ── Showing ──────────────────────────────────────────────────────────────────────────────────────────────────────

function theme(): Theme {
  const chosen = document.documentElement.dataset["theme"];
  if (chosen === "dark" || chosen === "light") return chosen;
  return matchMedia("(prefers-color-scheme: light)").matches ? "light" : "dark";
}

function type(): string {
  return data?.type ?? state.type ?? "process_cpu:cpu:nanoseconds:cpu:nanoseconds";
}

/** The same, of the part that is selected: points are whole steps, and so are selections. */
function within(all: Services, part: Between | null): Services {
  if (part === null) return all;
  const first = Math.max(0, Math.round((part.from - all.from_ms) / all.step_ms));
  const end = Math.round((part.until - all.from_ms) / all.step_ms);
  const sum = (points: number[]) => points.slice(first, end).reduce((a, b) => a + b, 0);
  const services = all.services.map((service) => ({ ...service, total: sum(service.points) })).sort((a, b) => b.total - a.total);
  const others = { ...all.others, total: sum(all.others.points) };
  const total = services.reduce((a, { total }) => a + total, others.total);
  return { ...all, services, others, total, from_ms: part.from, until_ms: part.until };
}

function showServices(): void {
  if (data === null) return;
  chart.show(data, state.service, state.selected);
  const part = within(data, state.selected);
  list.show(part, state.service, theme());
  const shown = state.service === null ? part.total : (part.services.find(({ name }) => name === state.service)?.total ?? 0);
  const ms = part.until_ms - part.from_ms;
  const unit = unitOf(type());
  byId("chart-title").textContent = isCpu(type()) ? "CPU over time" : `${type().split(":")[1] ?? "values"} over time`;
  const whose = state.service ?? "all services";
  byId("summary").textContent =
    shown === 0
      ? ""
      : isCpu(type())
        ? `${whose}: ${cores(shown / 1e6 / ms)} on average, ${amount(shown, unit)} of CPU time in ${span(ms)}`
        : `${whose}: ${amount(shown, unit)} in ${span(ms)}`;
}

function showTree(): void {
  if (tree === null) return;
  flame.show(tree, tree.find(state.zoom), unitOf(tree.json.type), isCpu(tree.json.type) ? tree.json.until_ms - tree.json.from_ms : 0);
  table.show(tree, unitOf(tree.json.type));
  showSearch();
  showZoom();
  showQuality();
}

/** How many stacks of what is asked for are whole: of CPU time, for nobody else says where stacks were cut. */
function showQuality(): void {
  quality = tree === null || tree.total === 0 || !isCpu(tree.json.type) ? null : qualityOf(tree);
  const place = byId("quality");
  place.hidden = quality === null;
  if (quality !== null) place.textContent = figure(quality);
}

function explainQuality(): void {
  if (quality === null) return;
  const { left, bottom } = byId("quality").getBoundingClientRect();
  tooltip.show(left - 16, bottom - 12, ...describe(quality));
}

function showSearch(): void {
  const matches = matcher(state.query);
  table.filter(matches);
  const badge = byId("matched");
  if (tree === null || matches === null) {
    flame.mark(null);
    badge.textContent = "";
    return;
  }
  const { functions, value } = tree.match(matches, flame.zoomed);
  flame.mark(functions);
  badge.textContent = `${percent(value, tree.totals[flame.zoomed]!)} matched`;
}

function showZoom(): void {
  if (tree === null) return;
  const path = tree.path(flame.zoomed);
  const crumb = (node: number): HTMLElement => {
    const name = node === 0 ? "all" : tree!.functionOf(node).name;
    if (node === flame.zoomed) return el("span", { class: "crumb", "aria-current": "location", title: name }, name);
    const button = el("button", { type: "button", class: "crumb", title: name }, name);
    button.addEventListener("click", () => choose({ zoom: tree!.keys(node) }));
    return button;
  };
  // Of a long way the ends are shown.
  const crumbs = path.length <= 6 ? path.map(crumb) : [...path.slice(0, 2).map(crumb), el("span", { class: "faint", title: `${path.length - 5} more` }, "…"), ...path.slice(-3).map(crumb)];
  const share = el("span", { class: "faint" }, `${amount(tree.totals[flame.zoomed]!, unitOf(tree.json.type))}, ${percent(tree.totals[flame.zoomed]!, tree.total)}`);
  byId("crumbs").replaceChildren(...crumbs.flatMap((item, i) => (i === 0 ? [item] : [el("span", { class: "faint", "aria-hidden": "true" }, "›"), item])), share);
  if (state.query !== "") showSearch();
  showLegend();
  const { nodes, value } = tree.json.hidden;
  byId("hidden").textContent = nodes > 0 ? `${percent(value, tree.total)} in ${nodes} stacks too thin to draw` : "";
}

function showLegend(): void {
  if (tree === null) return;
  const all = tree.modules(flame.zoomed);
  const total = tree.totals[flame.zoomed]!;
  const named = (name: string, fn: (typeof all)[number]["fn"], value: number, title: string) => {
    const dot = el("span", { class: fn.kind === "missing" ? "dot missing" : "dot" });
    dot.style.background = swatch(fn, state.color, theme());
    return el("span", { class: "key", title }, dot, name, el("span", { class: "faint" }, percent(value, total)));
  };
  if (state.color === "kind") {
    const kinds = (["user", "kernel", "missing"] as const).flatMap((kind) => {
      const those = all.filter(({ fn }) => fn.kind === kind);
      const name = kind === "missing" ? "not known" : kind;
      return those.length === 0 ? [] : [named(name, those[0]!.fn, those.reduce((sum, { value }) => sum + value, 0), `self time, ${name}`)];
    });
    byId("legend").replaceChildren(...kinds);
    return;
  }
  const shown = all.slice(0, 8).map(({ fn, value }) => {
    const name = fn.kind === "kernel" ? "kernel" : fn.kind === "missing" ? "not known" : fn.module === "" ? "unknown file" : basename(fn.module);
    return named(name, fn, value, `self time in ${fn.kind === "user" ? fn.module : name}`);
  });
  const rest = all.slice(8).reduce((sum, { value }) => sum + value, 0);
  byId("legend").replaceChildren(...shown, ...(rest > 0 ? [el("span", { class: "key faint" }, `${all.length - 8} more ${percent(rest, total)}`)] : []));
}

function showControls(): void {
  const live = byId("live");
  const interval = data?.interval_ms ?? null;
  const late = data?.newest_ms == null ? 0 : Date.now() + skew - data.newest_ms;
  const [mode, text] =
    trouble !== null
      ? ["gone", trouble]
      : state.fixed !== null
        ? ["paused", state.selected === null ? "paused" : "selection"]
        : data === null
          ? ["waiting", "connecting"]
          : data.newest_ms === null
            ? ["waiting", "waiting for samples"]
            : late > Math.max(3 * (interval ?? 0), 15_000)
              ? ["waiting", `no data for ${span(late)}`]
              : looking
                ? ["paused", "paused while you look"]
                : ["live", `live · ${span(interval ?? 0)}`];
  live.dataset["mode"] = mode;
  byId("live-text").textContent = text!;
  live.setAttribute("aria-pressed", String(state.fixed === null));
  document.querySelectorAll<HTMLElement>("#ranges button").forEach((button) => {
    button.setAttribute("aria-pressed", String(state.fixed === null && button.dataset["last"] === String(state.last)));
  });
  byId("color-module").setAttribute("aria-pressed", String(state.color === "module"));
  byId("color-kind").setAttribute("aria-pressed", String(state.color === "kind"));
  const clear = byId("clear-range");
  clear.hidden = state.fixed === null;
  const part = state.selected ?? state.fixed;
  if (part !== null) clear.textContent = `${clock(part.from)} – ${clock(part.until)}  ×  back to live`;
  showTypes();
  document.title = state.service === null ? "profiler-daemon" : `${state.service} · profiler-daemon`;
}

function showTypes(): void {
  const select = byId<HTMLSelectElement>("type");
  const types = data?.types ?? [];
  select.hidden = types.length < 2 && (types.length === 0 || types[0] === type());
  const known = [...select.options].map(({ value }) => value);
  const wanted = types.includes(type()) ? types : [type(), ...types];
  if (known.join() !== wanted.join()) {
    select.replaceChildren(
      ...wanted.map((value) => {
        const [name, kind, unit] = value.split(":");
        return el("option", { value }, isCpu(value) ? "CPU time" : `${name}: ${kind} (${unit})`);
      }),
    );
  }
  select.value = type();
}

function showEmptiness(): void {
  const place = byId("empty");
  const words = emptiness({ data, tree, trouble, state, waitedMs: Date.now() - opened });
  place.hidden = words === null;
  byId("profile").hidden = words !== null;
  // Axes without anything on them only look like data.
  byId("chart-card").hidden = words !== null && (data === null || data.newest_ms === null);
  if (words !== null) place.replaceChildren(...words);
}

function paint(): void {
  flame.paint(theme(), state.color);
  chart.paint(theme());
  table.paint(theme(), state.color);
  showServices();
  showLegend();
  showControls();
}

// ── Hands on ─────────────────────────────────────────────────────────────────────────────────────────────────────

function toggleLive(): void {
  if (state.fixed !== null) choose({ fixed: null, selected: null });
  else if (data !== null) choose({ fixed: { from: data.from_ms, until: data.until_ms }, selected: null });
}

function toggleTheme(): void {
  const next = theme() === "dark" ? "light" : "dark";
  document.documentElement.dataset["theme"] = next;
  try {
    localStorage.setItem("theme", next);
  } catch {
    // Private windows keep nothing; the choice holds until they are closed.
  }
  paint();
}

function neighbour(step: number): void {
  const names = [null, ...(data === null ? [] : within(data, state.selected).services.map(({ name }) => name))];
  const at = names.indexOf(state.service);
  const next = names[Math.min(Math.max(at + step, 0), names.length - 1)];
  if (next !== undefined && next !== state.service) choose({ service: next, zoom: [] });
}

function escape(): void {
  if (state.query !== "") {
    search.value = "";
    choose({ query: "" }, false);
  } else if (state.zoom.length > 0) choose({ zoom: [] });
  else if (state.fixed !== null) choose({ fixed: null, selected: null });
}

for (const [i, { label, title, seconds }] of RANGES.entries()) {
  const button = el("button", { type: "button", title: `${title} (${i + 1})`, "data-last": String(seconds) }, label);
  button.addEventListener("click", () => choose({ last: seconds, fixed: null, selected: null }));
  byId("ranges").append(button);
}
byId("live").addEventListener("click", toggleLive);
for (const comes of ["pointerenter", "focus"]) byId("quality").addEventListener(comes, explainQuality);
for (const goes of ["pointerleave", "blur"]) byId("quality").addEventListener(goes, () => tooltip.hide());
byId("theme").addEventListener("click", toggleTheme);
byId("clear-range").addEventListener("click", () => choose({ fixed: null, selected: null }));
byId("color-module").addEventListener("click", () => choose({ color: "module" }, false));
byId("color-kind").addEventListener("click", () => choose({ color: "kind" }, false));
byId("type").addEventListener("change", (event) => choose({ type: (event.target as HTMLSelectElement).value, service: null, zoom: [] }));
const help = byId<HTMLDialogElement>("help");
byId("help-button").addEventListener("click", () => help.showModal());
help.addEventListener("click", (event) => {
  if (event.target === help) help.close();
});
search.value = state.query;
search.addEventListener("input", () => choose({ query: search.value }, false));
search.addEventListener("keydown", (event) => {
  if (event.key === "Escape" || event.key === "Enter") {
    if (event.key === "Escape") escape();
    search.blur();
    event.stopPropagation();
    event.preventDefault();
  }
});

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || help.open) return;
  if (event.target instanceof HTMLInputElement || event.target instanceof HTMLSelectElement) return;
  const digit = RANGES[Number(event.key) - 1];
  if (event.key === "/") {
    search.focus();
    search.select();
  } else if (event.key === "?") help.showModal();
  else if (event.key === "Escape") escape();
  else if (event.key === "Backspace") choose({ zoom: state.zoom.slice(0, -1) });
  else if (event.key === "l") toggleLive();
  else if (event.key === "t") toggleTheme();
  else if (event.key === "c") choose({ color: state.color === "module" ? "kind" : "module" }, false);
  else if (event.key === "j") neighbour(1);
  else if (event.key === "k") neighbour(-1);
  else if (digit !== undefined && event.key.length === 1) choose({ last: digit.seconds, fixed: null, selected: null });
  else return;
  event.preventDefault();
});

matchMedia("(prefers-color-scheme: light)").addEventListener("change", paint);

/** What the page shows, for tests: read only. */
Object.defineProperty(window, "__state", {
  get: () => ({
    state: structuredClone(state),
    mode: byId("live").dataset["mode"],
    services: data === null ? null : within(data, state.selected).services.map(({ name, total }) => ({ name, total })),
    total: tree?.total ?? null,
    zoomed: tree === null ? null : flame.zoomed === 0 ? "all" : tree.functionOf(flame.zoomed).name,
    frames: flame.drawn(),
    matched: byId("matched").textContent,
    tooltip: tooltip.text,
    theme: theme(),
  }),
});

try {
  const chosen = localStorage.getItem("theme");
  if (chosen === "dark" || chosen === "light") document.documentElement.dataset["theme"] = chosen;
} catch {
  // Without storage the system's choice holds.
}
paint();
void refresh();
