// Brings the parts of the page together: what was chosen, what is asked of the server and when, what is shown.

import { Question, type FlameJson, type Parameters, type Services } from "./api.js";
import { Chart } from "./chart.js";
import type { Theme } from "./colors.js";
import { columns } from "./columns.js";
import type { Context } from "./context.js";
import { byId, say, Tooltip } from "./dom.js";
import { Earlier } from "./earlier.js";
import { emptiness } from "./empty.js";
import { Filters } from "./filters.js";
import { amount, changed, clock, cores, isCpu, isLevel, nounOf, span, typeName, unitOf } from "./format.js";
import { GraphView } from "./graph.js";
import { Header } from "./header.js";
import { listen } from "./keys.js";
import { levelled } from "./levels.js";
import { Menu } from "./menu.js";
import { selector } from "./selector.js";
import { ServiceList } from "./services.js";
import { Share } from "./share.js";
import { parse, RANGE_MAX, RANGES, whose, write, type Between, type State } from "./state.js";
import { Toolbar } from "./toolbar.js";
import { measuredMs, within } from "./within.js";

/** A pointer that rests this long over the graph reads no more. */
const LOOK_MS = 20_000;
/** After the end of a window: until it is named, pushed and stored. */
const LAG_MS = 700;
/** How long a notice stays. */
const NOTICE_MS = 4000;

let state: State = parse(location.hash);
let data: Services | null = null;
let trouble: string | null = null;
let failures = 0;
let timer = 0;
/** The server's clock minus ours. */
let skew = 0;
const opened = Date.now();
let looked = 0;
/** What has come while someone looked, and is shown when they look away. */
let looking = false;
/** The stack below which lighter ones were asked for. */
let near: string[] = state.zoom;
/** The question for all that is shown is under way, or came to nothing. */
let unanswered = false;

const servicesQuestion = new Question<Services>();
const flameQuestion = new Question<FlameJson>(columns);
const nearQuestion = new Question<FlameJson>(columns);
const callersQuestion = new Question<FlameJson>(columns);
const search = byId<HTMLInputElement>("search");
const help = byId<HTMLDialogElement>("help");

const context: Context = {
  tooltip: new Tooltip(),
  menu: new Menu(),
  get state() {
    return state;
  },
  choose,
  get theme() {
    return theme();
  },
  get type() {
    return data?.type ?? state.type ?? "process_cpu:cpu:nanoseconds:cpu:nanoseconds";
  },
  get range() {
    // A window belongs to the range that its middle lies in; a Pyroscope asks when windows begin.
    const half = (data?.interval_ms ?? 0) / 2;
    const now = Date.now() + skew;
    const part = state.selected ?? state.fixed ?? (data === null ? { from: now - state.last * 1000, until: now } : { from: data.from_ms, until: data.until_ms });
    return { start: Math.floor(part.from - half), end: Math.ceil(part.until - half) - 1 };
  },
  get measuredMs() {
    return data === null ? state.last * 1000 : measuredMs(data, state.selected);
  },
  get before() {
    // What is late looks like less.
    return data === null || (state.fixed === null && isLate(data)) ? null : earlier.before(data, state.selected);
  },
  notify,
};

const list = new ServiceList(byId("services"), context);
const chart = new Chart({
  canvas: byId<HTMLCanvasElement>("chart"),
  holder: byId("chart-holder"),
  tooltip: context.tooltip,
  onSelect: (from, until, base) => {
    const fixed = state.fixed ?? (data === null ? null : { from: data.from_ms, until: data.until_ms });
    if (base && state.selected !== null) choose({ base: { from, until } });
    else choose({ fixed, selected: { from, until }, base: null });
  },
});
const graph = new GraphView(context);
const header = new Header(context);
const toolbar = new Toolbar(context, parameters);
const filters = new Filters(context);
const earlier = new Earlier();
new Share(context, shownRange);

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
  const asked = (s: State) => JSON.stringify([s.group, s.service, s.filters, s.last, s.fixed, s.selected, s.base, s.against, s.type, s.view, s.function, s.hide, s.only]);
  const isNew = asked(before) !== asked(state);
  if (isNew) looking = false;
  if (search.value !== state.query && document.activeElement !== search) search.value = state.query;
  graph.update(before);
  // Who comes near to what was too light to be sent gets to see it.
  const comesNear = before.zoom.join() !== state.zoom.join() && graph.hides(state.zoom);
  if (comesNear || isNew) {
    near = state.zoom;
    // An answer that is awaited would show less than this one.
    void (isNew || unanswered ? refresh() : approach());
  }
  if (isNew) showServices();
  // Of a zoom and of a search they do not tell.
  if (isNew || before.color !== state.color) showControls();
}

window.addEventListener("popstate", () => {
  const before = state;
  state = parse(location.hash);
  search.value = state.query;
  follow(before);
});

// ── Asking ───────────────────────────────────────────────────────────────────────────────────────────────────────

/** The range that is shown, whole; `null` before anything is. */
function shownRange(): Between | null {
  if (data === null) return null;
  return state.fixed ?? { from: data.until_ms - state.last * 1000, until: data.until_ms };
}

function range(between: Between | null): Parameters {
  return between === null ? { last: state.last } : { from: between.from, until: between.until };
}

/** Patterns as the server reads them. */
function lines(texts: readonly string[]): string | null {
  return texts.length === 0 ? null : texts.join("\n");
}

/** The question for the graph. */
function parameters(): Parameters {
  const { base, against, group, filters } = state;
  return {
    form: "columns",
    ...range(state.selected ?? state.fixed),
    where: whose(state),
    type: state.type,
    hide: lines(state.hide),
    only: lines(state.only),
    view: state.view === "calls" ? null : state.view === "inverted" ? "inverted" : "callees",
    function: state.view === "sandwich" ? state.function : null,
    below: state.view === "sandwich" || near.length === 0 ? null : near.join("."),
    parts: graph.parts,
    base_from: base === null ? null : base.from,
    base_until: base === null ? null : base.until,
    base_where: against === null ? null : selector([...filters, { name: group, operator: "=", value: against }]),
  };
}

/** Asks for what is shown. */
async function refresh(): Promise<void> {
  clearTimeout(timer);
  unanswered = true;
  const wanted = state;
  try {
    const asked = parameters();
    const told = { where: state.filters.length === 0 ? null : selector(state.filters), group: state.group, type: state.type, only: lines(state.only) };
    const first = servicesQuestion.ask("api/services", { ...range(state.fixed), ...told, points: 120 });
    // While the graph is awaited, so that what comes of it is drawn with it.
    if (data === null) first.then(({ value }) => void ((skew = value.now_ms - Date.now()), filters.learn()), () => {});
    const [services, flame, callers] = await Promise.all([
      first,
      flameQuestion.ask("api/flamegraph", asked),
      state.view === "sandwich" ? callersQuestion.ask("api/flamegraph", { ...asked, view: "callers" }) : null,
    ]);
    unanswered = false;
    failures = 0;
    trouble = null;
    byId("main").hidden = false;
    if (services.changed) {
      data = levelled(services.value);
      skew = data.now_ms - Date.now();
      // Who profiles something else than CPUs need not look for it.
      const other = data.newest_ms === null && state.type === null ? data.types.find((type) => !isCpu(type)) : undefined;
      if (other !== undefined) return choose({ type: other }, false);
      showServices();
    }
    if (flame.changed || callers?.changed === true || (callers === null) !== graph.isWhole) {
      graph.show(flame.value, callers?.value ?? null);
      header.showQuality(graph.tree);
    }
    const shown = shownRange();
    if (shown !== null && !document.hidden) void earlier.ask(shown, told).then((isNew) => isNew && showShares(), () => {});
  } catch (error) {
    // A newer question took this one's place.
    if (wanted !== state || (error instanceof DOMException && error.name === "AbortError")) return;
    byId("main").hidden = false;
    unanswered = true;
    failures++;
    trouble = error instanceof TypeError ? "the server does not answer" : error instanceof Error ? error.message : String(error);
    for (const question of [servicesQuestion, flameQuestion, callersQuestion]) question.forget();
    // Of what is near nothing more comes now.
    graph.tell();
  }
  showControls();
  showEmptiness();
  schedule();
}

/** Asks for what is below `near` and was too light to be sent: for more of the same, and for nothing else. */
async function approach(): Promise<void> {
  const { whole } = graph;
  if (whole === null) return;
  const wanted = near;
  try {
    const { from_ms, until_ms } = whole.json;
    const { value } = await nearQuestion.ask("api/flamegraph", { ...parameters(), last: null, from: from_ms, until: until_ms, only_below: "true" });
    // Meanwhile one may have gone on, or all of it may have come anew.
    if (wanted.join() !== state.zoom.join() || whole !== graph.whole) return;
    if (!graph.approach(value, wanted)) void refresh();
  } catch (error) {
    // A newer question took this one's place; or there is trouble, which the other question tells.
    if (!(error instanceof DOMException && error.name === "AbortError")) void refresh();
  }
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
  looking = state.fixed === null && (Date.now() - looked < LOOK_MS || context.menu.open);
  if (looking) {
    showControls();
    timer = setTimeout(tick, 1000);
  } else void refresh();
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) clearTimeout(timer);
  else tick();
});
for (const id of ["flame-scroller", "sandwich", "functions"]) {
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

function showServices(): void {
  if (data === null) return;
  chart.show(data, state.service, state.selected, state.base);
  showShares();
}

/** Who used how much, and how much more than before. */
function showShares(): void {
  if (data === null) return;
  const { type } = context;
  const part = within(data, state.selected);
  list.show(part);
  const shown = state.service === null ? part.total : (part.services.find(({ name }) => name === state.service)?.total ?? 0);
  const ms = context.measuredMs;
  say(byId("chart-title"), isCpu(type) ? "CPU over time" : `${typeName(type)} over time`);
  const name = state.service ?? (state.group === "service_name" ? "all services" : "all");
  const said = `${amount(shown, unitOf(type))} ${nounOf(type)}`.trimEnd();
  const told = isCpu(type) ? `${cores(shown / 1e6 / ms)} on average in ${span(ms)}` : `${said} ${isLevel(type) ? "on average over" : "in"} ${span(ms)}`;
  const { before } = context;
  const was = before === null ? 0 : state.service === null ? before.total : (before.services.find(({ name }) => name === state.service)?.total ?? 0);
  const change = changed(shown, was);
  const summary = byId("summary");
  summary.title = shown === 0 ? "" : `${name}: ${told}${change === null ? "" : `, ${change}`}`;
  say(summary, summary.title);
  showComparison();
}

/** The button that compares, or ends that. */
function showComparison(): void {
  const button = byId("compare");
  const { against, base } = state;
  button.hidden = against === null && base === null && context.before === null && state.selected === null;
  say(button, against !== null ? `against ${against}  ×` : base !== null ? `against ${clock(base.from)} – ${clock(base.until)}  ×` : "What changed?");
  button.title = against !== null || base !== null ? "end the comparison (d)" : "compare with as much time before (d)";
}

function showControls(): void {
  header.update({ data, trouble, looking, lateMs: data?.newest_ms == null ? 0 : Date.now() + skew - data.newest_ms });
  toolbar.update();
  filters.update();
  showComparison();
}

/** Compares with the range of the same length before what is selected or shown, or no more. Both are shown. */
function toggleCompare(): void {
  const shown = shownRange();
  const { base, against, fixed, selected } = state;
  if (base !== null || against !== null) {
    // Who came from the live page gets back there.
    const whole = base !== null && fixed?.from === base.from && fixed.until === selected?.until;
    choose({ base: null, against: null, ...(whole ? { fixed: null, selected: null } : {}) });
  } else if (shown !== null) {
    const { from, until } = selected ?? shown;
    const length = Math.min(until - from, RANGE_MAX / 2);
    const before = { from: until - 2 * length, until: until - length };
    choose({ fixed: { from: Math.min(before.from, (fixed ?? before).from), until: (fixed ?? shown).until }, selected: { from: before.until, until }, base: before });
  }
}

function showEmptiness(): void {
  const place = byId("empty");
  const words = emptiness({ data, tree: graph.tree, trouble, state, waitedMs: Date.now() - opened, onReset: () => choose({ filters: [], only: [], hide: [], view: "calls", function: null, zoom: [] }) });
  place.hidden = words === null;
  byId("profile").hidden = words !== null;
  // Axes without anything on them only look like data.
  byId("chart-card").hidden = words !== null && (data === null || data.newest_ms === null);
  if (words !== null) place.replaceChildren(...words);
}

function paint(): void {
  chart.paint(theme());
  graph.paint();
  showServices();
  showControls();
}

let noticed = 0;

function notify(text: string): void {
  const place = byId("notice");
  place.textContent = text;
  place.hidden = false;
  clearTimeout(noticed);
  noticed = setTimeout(() => (place.hidden = true), NOTICE_MS);
}

// ── Hands on ─────────────────────────────────────────────────────────────────────────────────────────────────────

/** True if data is missing at the end of the range that ends now. */
function isLate({ newest_ms, interval_ms, until_ms }: Services): boolean {
  return until_ms - (newest_ms ?? 0) > 3 * (interval_ms ?? 0);
}

function toggleLive(): void {
  if (state.fixed !== null) choose({ fixed: null, selected: null, base: null });
  else if (data !== null) choose({ fixed: { from: data.from_ms, until: data.until_ms }, selected: null, base: null });
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
  } else if (state.view === "sandwich") choose({ view: "calls", function: null });
  else if (state.zoom.length > 0) choose({ zoom: [] });
  else if (state.fixed !== null) choose({ fixed: null, selected: null, base: null });
}

byId("live").addEventListener("click", toggleLive);
byId("theme").addEventListener("click", toggleTheme);
byId("compare").addEventListener("click", toggleCompare);
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

const KEYS: Record<string, () => void> = {
  "/": () => {
    search.focus();
    search.select();
  },
  "?": () => help.showModal(),
  Escape: escape,
  Backspace: () => choose({ zoom: state.zoom.slice(0, -1) }),
  l: toggleLive,
  t: toggleTheme,
  i: () => toolbar.invert(),
  c: () => toolbar.nextColor(),
  d: toggleCompare,
  e: () => toolbar.offerFiles(),
  f: () => void filters.show(),
  j: () => neighbour(1),
  k: () => neighbour(-1),
};
listen((key) => {
  const digit = key.length === 1 ? RANGES[Number(key) - 1] : undefined;
  if (digit !== undefined) return () => choose({ last: digit.seconds, fixed: null, selected: null, base: null });
  return KEYS[key] ?? null;
}, () => !help.open);

matchMedia("(prefers-color-scheme: light)").addEventListener("change", paint);

/** What the page shows, for tests: read only. */
Object.defineProperty(window, "__state", {
  get: () => ({
    state: structuredClone(state),
    mode: byId("live").dataset["mode"],
    services: data === null ? null : within(data, state.selected).services.map(({ name, total }) => ({ name, total })),
    total: graph.tree?.total ?? null,
    zoomed: graph.tree === null ? null : graph.zoomed === 0 ? "all" : graph.tree.functionOf(graph.zoomed).name,
    frames: graph.drawn(),
    matched: byId("matched").textContent,
    hidden: byId("hidden").textContent,
    tooltip: context.tooltip.text,
    menu: context.menu.labels,
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
