// The merged tree, ready to be drawn: flat arrays, no objects per node, no recursion.

import type { FlameJson } from "./api.js";

export type Kind = "user" | "kernel" | "missing";

export interface Fn {
  name: string;
  file: string;
  module: string;
  line: number;
  kind: Kind;
  /** Names it in an address, whatever its index is in the next answer. */
  key: string;
}

/** FNV-1a, short enough for an address. */
export function hash(text: string): number {
  let value = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) {
    value ^= text.charCodeAt(i);
    value = Math.imul(value, 0x01000193);
  }
  return value >>> 0;
}

function kindOf(name: string, module: string): Kind {
  if (module.startsWith("[kernel")) return "kernel";
  return module === "" && name.startsWith("[") && name.endsWith("]") ? "missing" : "user";
}

export class Tree {
  readonly count: number;
  readonly total: number;
  readonly functions: Fn[];
  readonly parent: Uint32Array;
  readonly fn: Uint32Array;
  readonly depth: Uint16Array;
  readonly totals: Float64Array;
  readonly selfs: Float64Array;
  /** Where a node begins, in units of value from the left end of the root. */
  readonly start: Float64Array;
  /** First node after all that is called by a node. */
  readonly end: Uint32Array;
  readonly depthMax: number;

  constructor(readonly json: FlameJson) {
    const { texts, functions, nodes } = json;
    this.functions = functions.name.map((name, i) => {
      const [text, module] = [texts[name]!, texts[functions.module[i]!]!];
      return {
        name: text,
        file: texts[functions.file[i]!]!,
        module,
        line: functions.line[i]!,
        kind: kindOf(text, module),
        key: hash(`${text}\0${module}`).toString(36),
      };
    });
    const count = (this.count = nodes.parent.length);
    this.total = json.total;
    this.parent = Uint32Array.from(nodes.parent);
    this.fn = Uint32Array.from(nodes.function);
    this.totals = Float64Array.from(nodes.total);
    this.selfs = Float64Array.from(nodes.self);
    this.depth = new Uint16Array(count);
    this.start = new Float64Array(count);
    this.end = new Uint32Array(count);
    // Children lie side by side from the left; what a node weighs alone is the gap at its right.
    const next = new Float64Array(count);
    let depthMax = 0;
    for (let i = 1; i < count; i++) {
      const parent = this.parent[i]!;
      const depth = (this.depth[i] = this.depth[parent]! + 1);
      if (depth > depthMax) depthMax = depth;
      this.start[i] = next[i] = next[parent]!;
      next[parent] = next[parent]! + this.totals[i]!;
    }
    this.depthMax = depthMax;
    this.end.fill(0);
    for (let i = count - 1; i >= 0; i--) {
      if (this.end[i]! < i + 1) this.end[i] = i + 1;
      if (i > 0) {
        const parent = this.parent[i]!;
        if (this.end[parent]! < this.end[i]!) this.end[parent] = this.end[i]!;
      }
    }
  }

  functionOf(node: number): Fn {
    return this.functions[this.fn[node]!]!;
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

  /** The deepest row below `node`. */
  deepest(node: number): number {
    let deepest = this.depth[node]!;
    for (let i = node; i < this.end[node]!; i++) if (this.depth[i]! > deepest) deepest = this.depth[i]!;
    return deepest;
  }

  /** Which functions match, and what share of `within` is spent in or below them. */
  match(matches: (name: string) => boolean, within: number): { functions: Uint8Array; value: number } {
    const functions = new Uint8Array(this.functions.length);
    this.functions.forEach((fn, i) => {
      functions[i] = matches(fn.name) || matches(fn.module) ? 1 : 0;
    });
    let value = 0;
    for (let i = within; i < this.end[within]!; ) {
      // Below a match all is counted already. The root has no name.
      if (i !== 0 && functions[this.fn[i]!] === 1) {
        value += this.totals[i]!;
        i = this.end[i]!;
      } else i++;
    }
    return { functions, value };
  }

  /** What each module weighs alone below `node`, heaviest first. */
  modules(node: number): { fn: Fn; value: number }[] {
    const sums = new Map<string, { fn: Fn; value: number }>();
    for (let i = node; i < this.end[node]!; i++) {
      const self = this.selfs[i]!;
      if (self === 0) continue;
      const fn = this.functionOf(i);
      const name = fn.kind === "user" ? fn.module : fn.kind;
      const sum = sums.get(name);
      if (sum === undefined) sums.set(name, { fn, value: self });
      else sum.value += self;
    }
    return [...sums.values()].sort((a, b) => b.value - a.value);
  }
}
