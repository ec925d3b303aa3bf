// CPU over time, stacked by service. Drag to choose a range, and with the shift key another that it is compared with.

import { INK, serviceColor, type Theme } from "./colors.js";
import type { Services } from "./api.js";
import type { Between } from "./state.js";
import { el, onceAFrame, sharp, type Tooltip } from "./dom.js";
import { amount, clock, cores, isCpu, percent, unitOf } from "./format.js";

/** Services with a colour of their own; a person tells no more apart. */
const SHOWN = 9;
const PAD = { left: 48, right: 10, top: 14, bottom: 22 };

interface Layer {
  name: string | null;
  points: number[];
}

export interface ChartOptions {
  canvas: HTMLCanvasElement;
  holder: HTMLElement;
  tooltip: Tooltip;
  /** A range was chosen; `base` if it is the one to compare with. */
  onSelect(from: number, until: number, base: boolean): void;
}

export class Chart {
  private data: Services | null = null;
  private layers: Layer[] = [];
  private top = 1;
  /** What the axis names. */
  private marks: number[] = [];
  private theme: Theme = "dark";
  private service: string | null = null;
  private selection: Between | null = null;
  private base: Between | null = null;
  private drag: { from: number; to: number; base: boolean } | null = null;
  private pointer: number | null = null;
  /** The step that the keyboard walked to, and where a choice began. */
  private cursor: { at: number; from: number } | null = null;
  /** Of its place, kept: asking for it lays the page out. */
  private size = { width: 0, height: 0 };
  private readonly redraw = onceAFrame(() => this.draw());

  constructor(private readonly options: ChartOptions) {
    const { canvas, holder } = options;
    new ResizeObserver(() => this.measure() && this.redraw()).observe(holder);
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      canvas.setPointerCapture(event.pointerId);
      this.drag = { from: event.offsetX, to: event.offsetX, base: event.shiftKey };
    });
    canvas.addEventListener("pointermove", (event) => {
      this.pointer = event.offsetX;
      if (this.drag !== null) this.drag.to = event.offsetX;
      this.hint(event);
      this.redraw();
    });
    canvas.addEventListener("pointerleave", () => {
      this.pointer = null;
      options.tooltip.hide();
      this.redraw();
    });
    const end = (chosen: boolean) => {
      const drag = this.drag;
      this.drag = null;
      if (chosen && drag !== null && Math.abs(drag.to - drag.from) > 4 && this.data !== null) {
        const { step_ms, from_ms } = this.data;
        // Whole steps: half a window cannot be told apart.
        const first = Math.floor((this.timeAt(Math.min(drag.from, drag.to)) - from_ms) / step_ms);
        const last = Math.ceil((this.timeAt(Math.max(drag.from, drag.to)) - from_ms) / step_ms);
        this.select(first, last, drag.base);
      }
      this.redraw();
    };
    canvas.addEventListener("pointerup", () => end(true));
    canvas.addEventListener("pointercancel", () => end(false));
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("blur", () => {
      this.cursor = null;
      options.tooltip.hide();
      this.redraw();
    });
  }

  /** Chooses the steps from `first` up to `end`. */
  private select(first: number, end: number, base: boolean): void {
    const { step_ms, from_ms, until_ms } = this.data!;
    const from = Math.max(from_ms + first * step_ms, from_ms);
    this.options.onSelect(from, Math.max(Math.min(from_ms + end * step_ms, until_ms), from + step_ms), base);
  }

  show(data: Services, service: string | null, selection: Between | null, base: Between | null): void {
    this.data = data;
    this.service = service;
    this.selection = selection;
    this.base = base;
    const shown = data.services.slice(0, SHOWN);
    const chosen = data.services.slice(SHOWN).find(({ name }) => name === service);
    if (chosen !== undefined) shown.push(chosen);
    const rest = data.others.points.slice();
    for (const other of data.services.slice(SHOWN)) {
      if (other !== chosen) other.points.forEach((value, i) => (rest[i]! += value));
    }
    this.layers = shown.map(({ name, points }) => ({ name, points }));
    if (rest.some((value) => value > 0)) this.layers.push({ name: null, points: rest });
    const sums = data.others.points.map((_, i) => this.layers.reduce((sum, layer) => sum + layer.points[i]!, 0));
    const highest = Math.max(0, ...sums) * this.factor();
    const all = isCpu(data.type) ? data.cpus : null;
    // The whole machine is the measure unless hardly any of it is used.
    this.top = all !== null && highest > all * 0.4 ? Math.max(all, highest) : nice(Math.max(highest * 1.1, isCpu(data.type) ? 0.01 : 1));
    // Samples may say a little more than there is; the axis does not.
    const whole = all !== null && highest > all * 0.4 ? all : this.top;
    this.marks = [0, whole / 2, whole];
    this.redraw();
  }

  paint(theme: Theme): void {
    this.theme = theme;
    this.redraw();
  }

  /** From a value of one step to what the axis shows: cores for CPU time. */
  private factor(): number {
    return this.data !== null && isCpu(this.data.type) ? 1 / (this.data.step_ms * 1e6) : 1;
  }

  private get inner(): { left: number; width: number; top: number; height: number } {
    const { width, height } = this.size;
    return { left: PAD.left, width: Math.max(1, width - PAD.left - PAD.right), top: PAD.top, height: Math.max(1, height - PAD.top - PAD.bottom) };
  }

  /** Takes the size of its place over, which lays the page out; false if it is what it was. */
  private measure(): boolean {
    const { width, height } = this.size;
    const { clientWidth, clientHeight } = this.options.holder;
    this.size = { width: clientWidth, height: clientHeight };
    return clientWidth !== width || clientHeight !== height;
  }

  private timeAt(x: number): number {
    const { from_ms, until_ms } = this.data!;
    const { left, width } = this.inner;
    return from_ms + (Math.min(Math.max(x - left, 0), width) / width) * (until_ms - from_ms);
  }

  private xOf(ms: number): number {
    const { from_ms, until_ms } = this.data!;
    const { left, width } = this.inner;
    return left + ((ms - from_ms) / (until_ms - from_ms)) * width;
  }

  private draw(): void {
    if (this.data === null) return;
    if (this.size.width === 0) this.measure();
    const context = sharp(this.options.canvas, this.size.width, this.size.height);
    const ink = INK[this.theme];
    const { left, width, top, height } = this.inner;
    context.font = '11px system-ui, "Segoe UI", Roboto, sans-serif';
    context.textBaseline = "middle";

    context.textAlign = "right";
    for (const mark of this.marks) {
      const y = top + height * (1 - mark / this.top);
      context.fillStyle = ink.grid;
      context.fillRect(left, Math.round(y), width, 1);
      context.fillStyle = ink.faint;
      context.fillText(this.axis(mark), left - 8, y);
    }
    if (isCpu(this.data.type)) {
      context.textAlign = "left";
      context.fillText("cores", left + 4, top - 5);
    }
    this.drawTimes(context);

    const factor = this.factor();
    const steps = this.data.others.points.length;
    const slot = width / steps;
    const gap = slot > 5 ? 1 : 0;
    const base = new Float64Array(steps);
    for (const layer of this.layers) {
      context.fillStyle = layer.name === null ? ink.others : serviceColor(layer.name, this.theme);
      context.globalAlpha = this.service === null || this.service === layer.name ? 0.92 : 0.22;
      for (let i = 0; i < steps; i++) {
        const value = layer.points[i]! * factor;
        if (value === 0) continue;
        const y0 = top + height * (1 - base[i]! / this.top);
        base[i]! += value;
        const y1 = top + height * (1 - base[i]! / this.top);
        context.fillRect(left + i * slot, y1, Math.max(slot - gap, 0.6), Math.max(y0 - y1, 0.35));
      }
    }
    context.globalAlpha = 1;

    const band = (a: number, b: number, fill: string, edge: string) => {
      const from = Math.max(left, Math.min(a, b));
      const to = Math.min(left + width, Math.max(a, b));
      if (to <= from) return;
      context.fillStyle = fill;
      context.fillRect(from, top, to - from, height);
      context.fillStyle = edge;
      context.fillRect(from, top, 1.5, height);
      context.fillRect(to - 1.5, top, 1.5, height);
    };
    const { drag, selection, base: other } = this;
    if (other !== null) band(this.xOf(other.from), this.xOf(other.until), ink.before, ink.beforeEdge);
    if (selection !== null && (drag === null || drag.base)) band(this.xOf(selection.from), this.xOf(selection.until), ink.select, ink.accent);
    const { cursor } = this;
    if (cursor !== null) band(left + Math.min(cursor.at, cursor.from) * slot, left + (Math.max(cursor.at, cursor.from) + 1) * slot, ink.select, ink.accent);
    if (drag !== null) band(drag.from, drag.to, drag.base ? ink.before : ink.select, drag.base ? ink.beforeEdge : ink.accent);
    else if (selection === null && this.pointer !== null && this.pointer >= left && this.pointer <= left + width) {
      const i = Math.min(steps - 1, Math.floor((this.pointer - left) / slot));
      context.fillStyle = ink.select;
      context.fillRect(left + i * slot, top, slot, height);
    }
  }

  private axis(value: number): string {
    if (this.data !== null && isCpu(this.data.type)) return String(Number(value.toPrecision(3)));
    return amount(value, unitOf(this.data?.type ?? ""));
  }

  private drawTimes(context: CanvasRenderingContext2D): void {
    const { from_ms, until_ms } = this.data!;
    const ink = INK[this.theme];
    const { left, width, top, height } = this.inner;
    const every = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400].find((s) => ((until_ms - from_ms) / 1000 / s) * 64 <= width) ?? 28800;
    context.textAlign = "center";
    context.fillStyle = ink.faint;
    // Round times of this place's clock, not of Greenwich's.
    const zone = new Date(from_ms).getTimezoneOffset() * 60_000;
    const stride = every * 1000;
    for (let t = Math.ceil((from_ms - zone) / stride) * stride + zone; t <= until_ms; t += stride) {
      const x = this.xOf(t);
      if (x < left + 12 || x > left + width - (every < 60 ? 24 : 14)) continue;
      context.fillRect(Math.round(x), top + height, 1, 4);
      context.fillText(clock(t, every < 60), x, top + height + 13);
    }
  }

  private hint(event: PointerEvent): void {
    const { tooltip } = this.options;
    if (this.data === null || this.drag !== null) return tooltip.hide();
    const { left, width } = this.inner;
    const steps = this.data.others.points.length;
    const i = Math.floor(((event.offsetX - left) / width) * steps);
    if (i < 0 || i >= steps) return tooltip.hide();
    this.tell(i, event.clientX, event.clientY);
  }

  /** Walks the steps; with the shift key a choice grows, and Enter takes it. */
  private key(event: KeyboardEvent): void {
    if (this.data === null || event.ctrlKey || event.metaKey || event.altKey) return;
    const last = this.data.others.points.length - 1;
    const { at, from } = this.cursor ?? { at: last, from: last };
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: last }[event.key];
    if (event.key === "Enter" && this.cursor !== null) this.select(Math.min(at, from), Math.max(at, from) + 1, false);
    else if (to === undefined) return;
    else {
      const next = this.cursor === null && to === at - 1 ? at : Math.min(Math.max(to, 0), last);
      this.cursor = { at: next, from: event.shiftKey ? from : next };
      const { left, top } = this.options.canvas.getBoundingClientRect();
      this.tell(next, left + this.xOf(this.data.from_ms + (next + 0.5) * this.data.step_ms), top + PAD.top);
      this.redraw();
    }
    event.preventDefault();
    event.stopPropagation();
  }

  /** Says what there was in a step, at a place of the window and to whoever listens. */
  private tell(i: number, x: number, y: number): void {
    if (this.data === null) return;
    const { tooltip, canvas } = this.options;
    const sum = this.layers.reduce((all, layer) => all + layer.points[i]!, 0);
    const rows = this.layers
      .map((layer) => ({ ...layer, value: layer.points[i]! }))
      .filter(({ value }) => value > 0)
      .sort((a, b) => b.value - a.value)
      .map(({ name, value }) => {
        const dot = el("span", { class: "dot" });
        dot.style.background = name === null ? INK[this.theme].others : serviceColor(name, this.theme);
        return el("tr", {}, el("th", {}, dot, name ?? "others"), el("td", {}, this.said(value)), el("td", {}, percent(value, sum)));
      });
    const from = this.data.from_ms + i * this.data.step_ms;
    const when = `${clock(from)} – ${clock(from + this.data.step_ms)}`;
    canvas.setAttribute("aria-description", `${when}: ${this.said(sum)}`);
    tooltip.show(
      x,
      y,
      el("div", { class: "tip-name" }, when),
      el("div", { class: "tip-where" }, this.said(sum)),
      el("table", {}, ...rows),
    );
  }

  private said(value: number): string {
    return isCpu(this.data!.type) ? cores(value * this.factor()) : amount(value, unitOf(this.data!.type));
  }
}

/** The next number that people like: 1, 2, 2.5 or 5 and zeros. */
function nice(value: number): number {
  const power = 10 ** Math.floor(Math.log10(value));
  return ([1, 2, 2.5, 5, 10].find((step) => step * power >= value) ?? 10) * power;
}
