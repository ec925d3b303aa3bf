// The merged tree, ready to be drawn: flat arrays, no objects per node, no recursion.

import { BRACKETED, type Column, type FlameJson } from "./api.js";
import { isLevel } from "./format.js";
import { hash } from "./hash.js";
import { shorter } from "./names.js";
import { packageOf } from "./packages.js";

export type Kind = "user" | "kernel" | "missing";

/** A function. What takes a while to know is found out when it is asked for. */
export class Fn {
  readonly kind: Kind;
  private ownKey: string | null = null;
  private ownPackage: string | null = null;
  private ownMark: number | null = null;
  private ownLabels: string[] | null = null;

  constructor(
    readonly name: string,
    readonly file: string,
    readonly module: string,
    readonly line: number,
  ) {
    this.kind = kindOf(name, module);
  }

  /** Names it in an address, whatever its index is in the next answer. */
  get key(): string {
    return (this.ownKey ??= hash(`${this.name}\0${this.module}`).toString(36));
  }

  /** A number that its name has in every answer. */
  get mark(): number {
    return (this.ownMark ??= hash(this.name));
  }

  /** Its name in ever shorter forms. */
  get labels(): string[] {
    return (this.ownLabels ??= shorter(this.name));
  }

  /** Package, crate or library. */
  get package(): string {
    return (this.ownPackage ??= packageOf(this.name, this.file, this.module));
  }
}

function kindOf(name: string, module: string): Kind {
  if (module.startsWith("[kernel")) return "kernel";
  return module === "" && name.startsWith("[") && name.endsWith("]") ? "missing" : "user";
}

/** What a tree of a level, such as memory in use, is multiplied with to be the mean of its profiles. */
export function scaleOf({ type, profiles, series }: FlameJson): number {
  return isLevel(type) && profiles > series && series > 0 ? series / profiles : 1;
}

/** A part of a whole; nothing of nothing. */
export function share(part: number, whole: number): number {
  return whole > 0 ? part / whole : 0;
}

/** How a share changed against the base: from -1, gone, to 1, new; 0 if it is the same. */
export function change(now: number, all: number, before: number, beforeAll: number): number {
  const [a, b] = [share(now, all), share(before, beforeAll)];
  return a + b === 0 ? 0 : (a - b) / (a + b);
}

export class Tree {
  readonly count: number;
  readonly total: number;
  /** What all stacks weigh: of a sandwich only some of them are here. */
  readonly all: number;
  /** What the server's values were multiplied with. */
  readonly scale: number;
  private readonly made: Fn[];
  /** What was sent of a node and all below it weighs alone. */
  private sent = { below: -1, value: 0 };
  readonly parent: Uint32Array;
  readonly fn: Uint32Array;
  readonly depth: Uint16Array;
  readonly totals: Float64Array;
  readonly selfs: Float64Array;
  /** The other side of a comparison: what all of it weighs, and each node. */
  readonly base: { all: number; totals: Float64Array; selfs: Float64Array } | null;
  /** How wide nodes are: their totals, or of a comparison the sum of their shares in both sides. */
  readonly widths: Float64Array;
  /** Where a node begins, in units of width from the left end of the root. */
  readonly start: Float64Array;
  /** First node after all that is called by a node. */
  readonly end: Uint32Array;
  readonly depthMax: number;

  /** `baseName` is what the other side of a comparison is called. */
  constructor(
    readonly json: FlameJson,
    readonly baseName = "before",
  ) {
    const { functions, nodes } = json;
    this.made = new Array<Fn>(functions.name.length);
    const count = (this.count = nodes.parent.length);
    const scale = (this.scale = scaleOf(json));
    this.total = json.total * scale;
    this.all = json.all * scale;
    const scaled = (values: Column) => {
      if (scale === 1 && values instanceof Float64Array) return values;
      const all = new Float64Array(values);
      if (scale !== 1) for (let i = 0; i < all.length; i++) all[i]! *= scale;
      return all;
    };
    const whole = (values: Column) => (values instanceof Uint32Array ? values : new Uint32Array(values));
    const parents = (this.parent = whole(nodes.parent));
    this.fn = whole(nodes.function);
    this.totals = scaled(nodes.total);
    this.selfs = scaled(nodes.self);
    this.base =
      nodes.base_total === undefined || nodes.base_self === undefined ? null : { all: json.base_all ?? 0, totals: new Float64Array(nodes.base_total), selfs: new Float64Array(nodes.base_self) };
    const widths = (this.widths = this.base === null ? this.totals : this.totals.map((_, i) => share(this.totals[i]!, this.all) + share(this.base!.totals[i]!, this.base!.all)));
    const depths = (this.depth = new Uint16Array(count));
    const starts = (this.start = new Float64Array(count));
    const ends = (this.end = new Uint32Array(count));
    // Children lie side by side from the left; what a node weighs alone is the gap at its right. Of each depth: where the next begins, and
    // which node is open.
    const next = [0, 0];
    const open = [0];
    let [depthMax, last] = [0, 0];
    for (let i = 1; i < count; i++) {
      const depth = (depths[i] = depths[parents[i]!]! + 1);
      for (; last >= depth; last--) ends[open[last]!] = i;
      open[(last = depth)] = i;
      if (depth > depthMax) depthMax = depth;
      const start = (starts[i] = next[depth + 1] = next[depth]!);
      next[depth] = start + widths[i]!;
    }
    for (; last >= 0; last--) ends[open[last]!] = count;
    this.depthMax = depthMax;
  }

  functionOf(node: number): Fn {
    return this.functionAt(this.fn[node]!);
  }

  /** The function of that number: most of many are never asked for. */
  functionAt(index: number): Fn {
    let fn = this.made[index];
    if (fn === undefined) {
      const { texts, functions } = this.json;
      const { name, file, module, line } = functions;
      fn = this.made[index] = new Fn(texts.at(name[index]!)!, texts.at(file[index]!)!, texts.at(module[index]!)!, line[index]!);
    }
    return fn;
  }

  /** All functions, of nodes and of the table. */
  get functions(): Fn[] {
    return Array.from(this.json.functions.name, (_, i) => this.functionAt(i));
  }

  /** How wide the part of a node is that it weighs alone. */
  selfWidth(node: number): number {
    const { base, selfs, all } = this;
    return base === null ? selfs[node]! : share(selfs[node]!, all) + share(base.selfs[node]!, base.all);
  }

  /** How the share of a node changed; 0 where nothing is compared. */
  changeOf(node: number): number {
    return this.base === null ? 0 : change(this.totals[node]!, this.all, this.base.totals[node]!, this.base.all);
  }

  /** Nodes from the root to `node`, both included. */
  path(node: number): number[] {
    const path = [node];
    while (node !== 0) path.push((node = this.parent[node]!));
    return path.reverse();
  }

  keys(node: number): string[] {
    return this.path(node)
      .slice(1)
      .map((step) => this.functionOf(step).key);
  }

  /** The node at the end of `keys`, or of as many of them as there are. */
  find(keys: readonly string[]): number {
    let node = 0;
    for (const key of keys) {
      let found = 0;
      for (let child = node + 1; child < this.end[node]!; child = this.end[child]!) {
        if (this.functionOf(child).key === key) {
          found = child;
          break;
        }
      }
      if (found === 0) break;
      node = found;
    }
    return node;
  }

  /**
   * The deepest row below `node` with something in it that is at least as wide as `thinnest`: a frame, or what is thinner of a
   * frame that is at least as wide as `fringed`.
   */
  deepest(node: number, thinnest = 0, fringed = Infinity): number {
    let deepest = this.depth[node]!;
    let isFringed = false;
    for (let i = node; i < this.end[node]!; ) {
      const width = this.widths[i]!;
      if (width < thinnest) {
        i = this.end[i]!;
        continue;
      }
      const depth = this.depth[i]!;
      if (depth > deepest) {
        deepest = depth;
        isFringed = false;
      }
      // Had it callees that are wide enough they would be deeper.
      if (depth === deepest && width >= fringed && width - this.selfWidth(i) >= thinnest) isFringed = true;
      i++;
    }
    return isFringed ? deepest + 1 : deepest;
  }

  /** Which functions match, and what of the width of `within` is spent in or below them. */
  match(matches: (name: string) => boolean, within: number): { functions: Uint8Array; value: number } {
    const functions = Uint8Array.from(this.functions, (fn) => (matches(fn.name) || matches(fn.module) ? 1 : 0));
    let value = 0;
    for (let i = within; i < this.end[within]!; ) {
      // Below a match all is counted already. The root has no name.
      if (i !== 0 && functions[this.fn[i]!] === 1) {
        value += this.widths[i]!;
        i = this.end[i]!;
      } else i++;
    }
    return { functions, value };
  }

  /** What in and below `node` is too light to have been sent: the gaps. */
  hiddenBelow(node: number): number {
    const { sent, selfs } = this;
    // One place is asked about more than once.
    if (sent.below !== node) {
      let value = 0;
      for (let i = node, end = this.end[node]!; i < end; i++) value += selfs[i]!;
      this.sent = { below: node, value };
    }
    const hidden = this.totals[node]! - this.sent.value;
    return hidden > this.totals[node]! * 1e-9 ? hidden : 0;
  }

  /** What each group of functions weighs alone below `node`, heaviest first; `ofModules` if all of a module and kind are of one group. */
  groups(node: number, groupOf: (fn: Fn) => string, ofModules: boolean): { name: string; fn: Fn; value: number }[] {
    const { rows, functions, below, groups } = this.json;
    const { module, shade } = functions;
    const sums = new Map<string, { name: string; fn: Fn; value: number }>();
    const sumOf = (index: number) => {
      const fn = this.functionAt(index);
      const name = groupOf(fn);
      let sum = sums.get(name);
      if (sum === undefined) sums.set(name, (sum = { name, fn, value: 0 }));
      return sum;
    };
    // The table has what was too thin to be sent, but only of all stacks; the functions that it leaves out weigh least. Of the place
    // that more was asked of modules are told.
    const ofAll = node === 0 && this.total === this.all;
    const isTold = !ofAll && ofModules && node === below && groups !== undefined;
    const told = ofAll ? rows : isTold ? groups : null;
    const [indices, selfs, scale] = told !== null ? [told.function, told.self, this.scale] : [this.fn, this.selfs, 1];
    // Of thousands of functions one of each module is looked at; what is missing has no module, and is of many groups.
    const known: number[] = [];
    const of: (ReturnType<typeof sumOf> | undefined)[] = [];
    for (let i = told !== null ? 0 : node, end = told !== null ? indices.length : this.end[node]!; i < end; i++) {
      const value = selfs[i]! * scale;
      if (value === 0) continue;
      const index = indices[i]!;
      const place = module[index]!;
      if (!ofModules || shade[index] === BRACKETED) sumOf(index).value += value;
      else {
        of[place] ??= sumOf(index);
        known[place] = (known[place] ?? 0) + value;
      }
    }
    of.forEach((sum, place) => sum !== undefined && (sum.value += known[place]!));
    return [...sums.values()].sort((a, b) => b.value - a.value);
  }
}
