// A flame graph: an icicle on a canvas, root on top, or turned over with its root below. Only rows and frames that can be
// seen are drawn, and once for each zoom: the movement is the compositor's, which stretches what is drawn already. What calls
// made that are thinner than a pixel is a fringe below their caller, which leads there.

import { changeColor, INK, Palette, type Theme } from "./colors.js";
import { el, onceAFrame, sharp, type Child, type Tooltip } from "./dom.js";
import { basename, percent, type Unit } from "./format.js";
import { longest } from "./names.js";
import type { ColorBy } from "./state.js";
import { describe } from "./tip.js";
import type { Fn, Tree } from "./tree.js";

const ROW = 21;
const FONT = '12px ui-monospace, "SF Mono", "Cascadia Mono", "JetBrains Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace';
/** The narrowest frame with a fringe: of a narrower one nobody sees what is below it. */
const FRINGED_MIN = 6;
const ZOOM_MS = 170;
/** How long a movement stays at its end: in their last 40 ms Chromium updates the page with each frame, however little moves, so it is ended before. */
const REST_MS = 80;
/** Who points at a graph is told of what they point at after this long, and from then on at once: who passes over it, or clicks, needs no telling. */
const POINT_MS = 60;
/** A movement from or to a frame that is thinner than this part of the graph begins at this size: nobody sees more. */
const STRETCH_MAX = 100;

/** What of the tree is seen: from where, how much of it, from which row on. */
interface View {
  start: number;
  width: number;
  depth: number;
}

/** A frame as it is drawn, for tests and assistive technology. */
export interface Drawn {
  name: string;
  x: number;
  y: number;
  width: number;
  self: number;
  total: number;
  matched: boolean;
}

export interface FlameOptions {
  scroller: HTMLElement;
  canvas: HTMLCanvasElement;
  /** As high as the whole graph, so that it can be scrolled. */
  spacer: HTMLElement;
  tooltip: Tooltip;
  /** The root is below. */
  flipped?: boolean;
  /** What the frame that fills the graph is called in "of …". */
  part: string;
  onZoom(node: number): void;
  onHover(fn: Fn | null): void;
  /** What can be done with a frame is asked for, at a place of the window. */
  onMenu(node: number, x: number, y: number): void;
}

/** How many pixels of the screen are beside each other in that width: of large graphs nothing thinner than one is asked for. */
export function pixels(width: number): number {
  return Math.ceil(width * Math.max(1, window.devicePixelRatio || 1));
}

export class FlameGraph {
  private tree: Tree | null = null;
  private zoom = 0;
  private view: View = { start: 0, width: 1, depth: 0 };
  private matched: Uint8Array | null = null;
  private highlighted: string | null = null;
  private hovered = -1;
  /** Where the pointer came to since the last frame. */
  private pointed: MouseEvent | null = null;
  private pointing = 0;
  /** Where the pointer has rested since it clicked. */
  private clicked: MouseEvent | null = null;
  /** Chosen by the keyboard. */
  private cursor = -1;
  private theme: Theme = "dark";
  private color: ColorBy = "module";
  private unit: Unit = "time";
  private rangeMs = 1;
  private charWidth = 7.2;
  /** Of all rows, in pixels. */
  private height = 0;
  /** Of the graph, in pixels; zero before it is seen. These three are kept: asking for them lays the page out. */
  width = 0;
  private seen = 0;
  private scrolled = 0;
  private palette: Palette | null = null;
  private readonly patterns = new Map<string, CanvasPattern | null>();
  private isStale = false;
  /** Around what is pointed at. Not on the canvas: the pointer comes over hundreds of frames, and none of them is drawn anew. */
  private readonly outline = el("div", { class: "outline", "aria-hidden": "true", hidden: true });
  /** What was seen before a zoom that is not drawn yet, and where its first row was. */
  private left: { view: View; top: number } | null = null;
  private movement: Animation | null = null;
  private resting = 0;
  private readonly nextFrame = onceAFrame(() => this.frame());

  constructor(private readonly options: FlameOptions) {
    const { scroller, canvas, spacer } = options;
    spacer.append(this.outline);
    new ResizeObserver(() => this.resized()).observe(scroller);
    const onScroll = () => {
      this.scrolled = scroller.scrollTop;
      this.redraw();
    };
    scroller.addEventListener("scroll", onScroll, { passive: true });
    canvas.addEventListener("pointermove", (event) => {
      // Browsers tell of a pointer that rests, too, when what is below it changes.
      const { clicked } = this;
      if (clicked !== null && Math.abs(event.clientX - clicked.clientX) < 1 && Math.abs(event.clientY - clicked.clientY) < 1) return;
      this.clicked = null;
      if (this.hovered >= 0) this.nextFrame();
      else if (this.pointed === null) this.pointing = setTimeout(this.nextFrame, POINT_MS);
      this.pointed = event;
    });
    canvas.addEventListener("pointerleave", () => {
      this.unpoint();
      this.hover(-1, null);
      this.nextFrame();
    });
    canvas.addEventListener("click", (event) => {
      const node = this.nodeAt(event);
      if (node < 0) return;
      // What was pointed at is about to go away, and what comes is looked at.
      this.unpoint();
      this.clicked = event;
      this.hover(-1, null);
      options.onZoom(node);
    });
    canvas.addEventListener("contextmenu", (event) => {
      // By the keyboard it comes from the frame that was walked to, wherever the pointer is.
      const byKey = event.button !== 2 && this.cursor >= 0;
      const node = byKey ? this.cursor : this.nodeAt(event);
      if (node < 0) return;
      event.preventDefault();
      const place = byKey ? this.placeOf(node) : { x: event.clientX, y: event.clientY };
      this.unpoint();
      options.tooltip.hide();
      options.onMenu(node, place.x, place.y);
    });
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("blur", () => {
      this.cursor = -1;
      this.options.tooltip.hide();
      this.redraw();
    });
  }

  get zoomed(): number {
    return this.zoom;
  }

  /** Draws with the next frame. */
  private readonly redraw = (): void => {
    this.isStale = true;
    this.nextFrame();
  };

  private unpoint(): void {
    clearTimeout(this.pointing);
    this.pointed = null;
  }

  /** All that comes of what happened since the last frame. */
  private frame(): void {
    const { pointed, left, tree } = this;
    this.pointed = this.left = null;
    // The page may have got its first room for it with what it shows.
    if (this.width === 0 && this.measure() && tree !== null) this.resize();
    if (pointed !== null) this.hover(this.nodeAt(pointed), pointed);
    if (this.isStale) this.draw();
    if (left !== null) this.moveFrom(left.view, left.top);
  }

  /** Shows another tree at once: what it shows is the same place, at another time. A movement goes on. */
  show(tree: Tree, zoom: number, unit: Unit, rangeMs: number): void {
    this.tree = tree;
    this.unit = unit;
    this.rangeMs = rangeMs;
    this.palette = null;
    this.hovered = this.cursor = -1;
    this.zoom = zoom;
    const { view, left } = this;
    this.view = this.viewOf(zoom);
    // It is the same place, which may begin elsewhere in this tree.
    if (left !== null) left.view = { ...left.view, start: left.view.start + this.view.start - view.start, depth: left.view.depth + this.view.depth - view.depth };
    this.resize();
    this.redraw();
  }

  /** Moves to another place of the same tree. */
  zoomTo(node: number): void {
    if (this.tree === null || node === this.zoom) return;
    this.zoom = node;
    this.cursor = -1;
    this.left ??= { view: this.view, top: this.top(this.view.depth) };
    this.view = this.viewOf(node);
    this.resize();
    if (this.options.flipped === true) this.scrollTo(this.height);
    else if (this.scrolled > 0) this.scrollTo(0);
    this.redraw();
  }

  private scrollTo(top: number): void {
    this.options.scroller.scrollTop = top;
    this.scrolled = this.options.scroller.scrollTop;
  }

  /** Lets what is drawn come from where it was when `from` was seen and its first row was at `top`. */
  private moveFrom(from: View, top: number): void {
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
    const { canvas, flipped } = this.options;
    const { start, width, depth } = this.view;
    const stretch = Math.min(Math.max(width / from.width, 1 / STRETCH_MAX), STRETCH_MAX);
    const left = ((start - from.start) / from.width) * this.width;
    const rows = (depth - from.depth) * ROW * (flipped === true ? -1 : 1);
    const before = `translate(${left}px, ${top + rows - this.top(depth)}px) scaleX(${stretch})`;
    this.rest();
    const steps = [{ transform: before, easing: "cubic-bezier(0.2, 0.7, 0.2, 1)" }, { transform: "none", offset: ZOOM_MS / (ZOOM_MS + REST_MS) }, { transform: "none" }];
    this.movement = canvas.animate(steps, { duration: ZOOM_MS + REST_MS });
    this.resting = setTimeout(() => this.rest(), ZOOM_MS + REST_MS / 4);
  }

  /** Ends a movement; where it came to its end this is not seen. */
  private rest(): void {
    clearTimeout(this.resting);
    this.movement?.cancel();
    this.movement = null;
  }

  /** Marks functions that match a search; `null` marks none and dims none. */
  mark(matched: Uint8Array | null): void {
    if (matched === null && this.matched === null) return;
    this.matched = matched;
    this.redraw();
  }

  /** Marks one function, wherever it is called. */
  highlight(key: string | null): void {
    if (this.highlighted === key) return;
    this.highlighted = key;
    this.redraw();
  }

  paint(theme: Theme, color: ColorBy): void {
    this.theme = theme;
    this.color = color;
    this.palette = null;
    this.redraw();
  }

  private viewOf(node: number): View {
    const tree = this.tree!;
    return { start: tree.start[node]!, width: Math.max(Number.MIN_VALUE, tree.widths[node]!), depth: tree.depth[node]! };
  }

  /** Makes room for all rows in which something is drawn: below them there is nothing to scroll to. */
  private resize(): void {
    const tree = this.tree!;
    const { flipped, spacer } = this.options;
    const rows = tree.deepest(this.zoom, this.thinnest, this.width === 0 ? Infinity : (FRINGED_MIN / this.width) * this.view.width) - tree.depth[this.zoom]! + 1;
    const before = this.height;
    this.height = rows * ROW;
    spacer.style.height = `${this.height}px`;
    if (before === this.height) return;
    // The root stays in sight; of fewer rows less can be scrolled away.
    if (flipped === true) this.scrollTo(this.height);
    else if (this.scrolled > 0) this.scrollTo(this.scrolled);
  }

  /** Draws at once what has room now, so that no frame shows a strip of nothing; rows may come and go with the next. */
  private resized(): void {
    const isDrawn = this.width > 0;
    if (!this.measure()) return;
    if (isDrawn) this.draw();
    requestAnimationFrame(() => {
      if (this.tree !== null) this.resize();
      this.draw();
    });
  }

  /** Takes the size of the graph over; false if it is what it was. */
  private measure(): boolean {
    const { width, seen } = this;
    ({ clientWidth: this.width, clientHeight: this.seen, scrollTop: this.scrolled } = this.options.scroller);
    return this.width !== width || this.seen !== seen;
  }

  /** Thinner nodes are not drawn, in units of the tree: they have no pixel of the screen to themselves. Nothing is left out before there is a place to draw. */
  private get thinnest(): number {
    return this.width === 0 ? 0 : this.view.width / pixels(this.width);
  }

  /** Calls `visit` for each place beside the callees of a node where calls are that are too thin to be drawn. */
  private fringe(node: number, visit: (x: number, w: number) => void): void {
    const tree = this.tree!;
    const { start: starts, widths, end: ends } = tree;
    const { thinnest } = this;
    const { start: left, width } = this.view;
    const scale = this.width / width;
    let from = starts[node]!;
    const until = (to: number) => {
      const [begin, end] = [Math.max(from, left), Math.min(to, left + width)];
      if (end - begin >= thinnest) visit((begin - left) * scale, (end - begin) * scale);
    };
    for (let child = node + 1; child < ends[node]!; child = ends[child]!) {
      if (widths[child]! < thinnest) continue;
      until(starts[child]!);
      from = starts[child]! + widths[child]!;
    }
    until(starts[node]! + widths[node]! - tree.selfWidth(node));
  }

  /** Where the row of that depth begins, from the top of what is seen. */
  private top(depth: number): number {
    const row = (depth - this.view.depth) * ROW;
    return (this.options.flipped === true ? Math.max(this.height, this.seen) - ROW - row : row) - this.scrolled;
  }

  /** Where a frame is in the window. */
  private placeOf(node: number): { x: number; y: number } {
    const tree = this.tree!;
    const box = this.options.canvas.getBoundingClientRect();
    const x = ((tree.start[node]! - this.view.start) / this.view.width) * this.width;
    return { x: box.left + Math.max(0, x), y: box.top + this.top(tree.depth[node]!) + ROW / 2 };
  }

  /** Calls `visit` for each frame that is seen, in depth-first order. */
  private visit(visit: (node: number, x: number, y: number, w: number) => void): void {
    const tree = this.tree!;
    const { width, seen: height } = this;
    const flipped = this.options.flipped === true;
    const scale = width / this.view.width;
    const thinnest = this.thinnest;
    const [left, right] = [this.view.start, this.view.start + this.view.width];
    const first = this.top(0);
    const { start: starts, widths, depth: depths, end: ends, count } = tree;
    for (let i = 0; i < count; ) {
      const start = starts[i]!;
      const total = widths[i]!;
      const y = first + (flipped ? -depths[i]! : depths[i]!) * ROW;
      const beyond = flipped ? y <= -ROW : y >= height;
      if (beyond || start >= right || start + total <= left || total < thinnest) {
        i = ends[i]!;
        continue;
      }
      if (y > -ROW && y < height) {
        const x = Math.max(0, (start - left) * scale);
        const end = Math.min(width, (start + total - left) * scale);
        visit(i, x, y, end - x);
      }
      i++;
    }
  }

  private draw(): void {
    const { width, seen: height } = this;
    const { tree } = this;
    if (width === 0 || height === 0 || tree === null) return;
    const context = sharp(this.options.canvas, width, height);
    this.isStale = false;
    const ink = INK[this.theme];
    context.font = FONT;
    context.textBaseline = "middle";
    this.charWidth = context.measureText("0000000000").width / 10;
    const hatch = this.pattern(context, "hatch", 8, [-8, 8, 0, 0, 0, 8, 8, 0, 8, 8, 16, 0]);
    const fringe = this.pattern(context, "fringe", 4, [1, 0, 1, 4]);
    const below = this.options.flipped === true ? -ROW : ROW;
    const { fn: functions } = tree;
    const { matched, highlighted, cursor } = this;
    const palette = tree.base === null ? (this.palette ??= new Palette(tree, this.color, this.theme)) : null;
    const isPlain = matched === null && highlighted === null;
    let filled = "";
    this.visit((node, x, y, w) => {
      const index = functions[node]!;
      const drawn = Math.max(w - 1, Math.min(w, 0.7));
      const color = node === 0 ? ink.root : palette !== null ? palette.of(index) : changeColor(tree.changeOf(node), this.theme);
      // Most frames are thin, and of those there is nothing else to draw.
      if (drawn <= 6 && isPlain && node !== cursor) {
        if (color !== filled) context.fillStyle = filled = color;
        context.fillRect(x, y + 1, drawn, ROW - 2);
        return;
      }
      filled = "";
      if (w >= FRINGED_MIN && fringe !== null) {
        context.fillStyle = fringe;
        this.fringe(node, (from, width) => context.fillRect(from, y + below + 1, width, ROW - 2));
      }
      const dimmed = matched !== null && matched[index] === 0;
      if (dimmed) context.globalAlpha = 0.28;
      context.fillStyle = color;
      if (drawn > 6) {
        context.beginPath();
        context.roundRect(x, y + 1, drawn, ROW - 2, 2.5);
        context.fill();
        if (node !== 0 && hatch !== null && tree.functionAt(index).kind === "missing") {
          context.fillStyle = hatch;
          context.fill();
        }
      } else context.fillRect(x, y + 1, drawn, ROW - 2);
      if (drawn > 22) {
        const label = node === 0 ? this.fit("all", drawn) : this.fit(tree.functionAt(index), drawn);
        if (label !== "") {
          if (dimmed) context.globalAlpha = 0.5;
          context.fillStyle = node === 0 || tree.functionAt(index).kind === "missing" ? ink.text : ink.frameText;
          context.fillText(label, x + 5, y + ROW / 2 + 0.5);
        }
      }
      if (dimmed) context.globalAlpha = 1;
      const outlined = node === cursor;
      const same = highlighted !== null && node !== 0 && tree.functionAt(index).key === highlighted;
      const match = matched !== null && !dimmed && drawn > 3;
      if (outlined || same || match) {
        context.strokeStyle = match && !outlined && !same ? ink.match : this.theme === "dark" ? "#ffffff" : "#0b1220";
        context.lineWidth = outlined ? 2 : 1.25;
        context.beginPath();
        context.roundRect(x + 0.6, y + 1.6, Math.max(drawn - 1.2, 0.8), ROW - 3.2, 2.5);
        context.stroke();
      }
    });
    this.fade(context);
    this.surround();
  }

  /** Puts the outline around what is pointed at. */
  private surround(): void {
    const { outline, hovered: node, tree, width } = this;
    outline.hidden = true;
    if (node < 0 || tree === null) return;
    const scale = width / this.view.width;
    const left = Math.max(0, (tree.start[node]! - this.view.start) * scale);
    const right = Math.min(width, (tree.start[node]! + tree.widths[node]! - this.view.start) * scale);
    if (right <= left) return;
    outline.hidden = false;
    outline.style.width = `${Math.max(right - left - 1, 1)}px`;
    outline.style.transform = `translate(${left}px, ${this.top(tree.depth[node]!) + this.scrolled + 1}px)`;
  }

  /** Where rows go on above or below they fade out: the edge is not their end. */
  private fade(context: CanvasRenderingContext2D): void {
    const { width, seen: height } = this;
    const [above, below] = [this.scrolled >= 1, this.height - height - this.scrolled >= 1];
    context.globalCompositeOperation = "destination-out";
    for (const [hides, from, to] of [[above, ROW, 0], [below, height - ROW, height]] as const) {
      if (!hides) continue;
      const gradient = context.createLinearGradient(0, from, 0, to);
      gradient.addColorStop(0, "transparent");
      gradient.addColorStop(1, "black");
      context.fillStyle = gradient;
      context.fillRect(0, Math.min(from, to), width, ROW);
    }
    context.globalCompositeOperation = "source-over";
  }

  /** All frames that are drawn now. */
  drawn(): Drawn[] {
    if (this.tree === null) return [];
    const tree = this.tree;
    const out: Drawn[] = [];
    this.visit((node, x, y, width) => {
      const matched = this.matched !== null && this.matched[tree.fn[node]!] === 1;
      out.push({ name: node === 0 ? "all" : tree.functionOf(node).name, x, y, width, self: tree.selfs[node]!, total: tree.totals[node]!, matched });
    });
    return out;
  }

  /** Lines of a colour of the theme, `[x0, y0, x1, y1, …]` in each square of that size. */
  private pattern(context: CanvasRenderingContext2D, ink: "hatch" | "fringe", size: number, lines: number[]): CanvasPattern | null {
    const key = `${ink} ${this.theme}`;
    const known = this.patterns.get(key);
    if (known !== undefined) return known;
    const tile = document.createElement("canvas");
    tile.width = tile.height = size;
    const pen = tile.getContext("2d")!;
    pen.strokeStyle = INK[this.theme][ink];
    pen.lineWidth = 2;
    for (let i = 0; i < lines.length; i += 4) {
      pen.moveTo(lines[i]!, lines[i + 1]!);
      pen.lineTo(lines[i + 2]!, lines[i + 3]!);
    }
    pen.stroke();
    const pattern = context.createPattern(tile, "repeat");
    this.patterns.set(key, pattern);
    return pattern;
  }

  private fit(named: string | Fn, width: number): string {
    const room = Math.floor((width - 9) / this.charWidth);
    const name = typeof named === "string" ? named : named.name;
    // Shorter forms of a name are made where it is too long.
    const label = typeof named === "string" || name.length <= room ? name : longest(named.labels, room);
    if (label.length <= room) return label;
    return room >= 3 ? `${label.slice(0, room - 1)}…` : "";
  }

  private nodeAt(event: MouseEvent): number {
    if (this.tree === null) return -1;
    const box = this.options.canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    // Of thin frames the one under the pointer, or the nearest of its row within two pixels.
    let [best, distance] = [-1, 2];
    const below = this.options.flipped === true ? -ROW : ROW;
    this.visit((node, left, top, w) => {
      // A fringe leads to who made its calls.
      if (w >= FRINGED_MIN && y >= top + below && y < top + below + ROW) this.fringe(node, (from, width) => x >= from && x < from + width && ([best, distance] = [node, -1]));
      if (y < top || y >= top + ROW) return;
      const away = x < left ? left - x : x > left + w ? x - left - w : -1;
      if (away < distance) [best, distance] = [node, away];
    });
    return best;
  }

  private hover(node: number, event: MouseEvent | null): void {
    if (node !== this.hovered) {
      this.hovered = node;
      this.options.canvas.style.cursor = node >= 0 ? "pointer" : "default";
      this.options.onHover(node > 0 ? this.tree!.functionOf(node) : null);
      this.surround();
    }
    if (node >= 0 && event !== null) this.options.tooltip.show(event.clientX, event.clientY, ...this.describe(node));
    else this.options.tooltip.hide();
  }

  /** What there is to say about a frame. */
  private describe(node: number): Child[] {
    const { zoom, unit, rangeMs } = this;
    return describe(this.tree!, node, { zoom, unit, rangeMs, part: this.options.part });
  }

  private key(event: KeyboardEvent): void {
    const tree = this.tree;
    if (tree === null || event.ctrlKey || event.metaKey || event.altKey) return;
    const at = this.cursor >= 0 ? this.cursor : this.zoom;
    let next = at;
    const [away, back] = this.options.flipped === true ? ["ArrowUp", "ArrowDown"] : ["ArrowDown", "ArrowUp"];
    const isDrawn = (node: number) => tree.widths[node]! >= this.thinnest;
    if (event.key === away) next = tree.end[at]! > at + 1 && isDrawn(at + 1) ? at + 1 : at;
    else if (event.key === back) next = at === this.zoom ? at : tree.parent[at]!;
    else if (event.key === "ArrowRight") {
      const after = tree.end[at]!;
      if (at !== this.zoom && after < tree.count && tree.parent[after] === tree.parent[at] && isDrawn(after)) next = after;
    } else if (event.key === "ArrowLeft") {
      if (at !== this.zoom) {
        for (let child = tree.parent[at]! + 1; child < at; child = tree.end[child]!) next = child;
      }
    } else if (event.key === "Enter" && this.cursor >= 0) {
      event.preventDefault();
      this.options.onZoom(this.cursor);
      return;
    } else return;
    event.preventDefault();
    event.stopPropagation();
    this.cursor = next;
    const { canvas } = this.options;
    const y = this.top(tree.depth[next]!);
    if (y < 0) this.scrollTo(this.scrolled + y);
    if (y + ROW > this.seen) this.scrollTo(this.scrolled + y + ROW - this.seen);
    const place = this.placeOf(next);
    this.options.tooltip.show(place.x, place.y, ...this.describe(next));
    const fn = tree.functionOf(next);
    canvas.setAttribute("aria-description", `${next === 0 ? "all" : fn.name}, ${basename(fn.module)}, total ${percent(tree.totals[next]!, tree.all)}, self ${percent(tree.selfs[next]!, tree.all)}`);
    this.redraw();
  }
}
