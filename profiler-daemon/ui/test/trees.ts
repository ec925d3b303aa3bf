// Trees from folded stacks, as the server writes them.

import { BRACKETED, type FlameJson } from "../src/api.js";
import { hash } from "../src/hash.js";
import { Tree } from "../src/tree.js";

/** A tree of stacks, root first, with their own values. A frame is `name` or `name@module`. */
export function treeOf(stacks: Record<string, number>, change: Partial<FlameJson> = {}): Tree {
  const texts = [""];
  const text = (value: string) => (texts.includes(value) ? texts.indexOf(value) : texts.push(value) - 1);
  const functions: Record<keyof FlameJson["functions"], number[]> = { name: [0], file: [0], module: [0], line: [0], shade: [0] };
  const known = [""];
  interface Node {
    frame: number;
    self: number;
    children: Node[];
  }
  const root: Node = { frame: 0, self: 0, children: [] };
  for (const [stack, value] of Object.entries(stacks)) {
    let at = root;
    for (const frame of stack.split(";")) {
      if (!known.includes(frame)) {
        known.push(frame);
        const [name = "", module = ""] = frame.split("@");
        functions.name.push(text(name));
        functions.file.push(0);
        functions.module.push(text(module));
        functions.line.push(0);
        functions.shade.push(module === "" && name.startsWith("[") ? BRACKETED : (hash(name) >>> 8) % 7);
      }
      const index = known.indexOf(frame);
      let next = at.children.find((child) => child.frame === index);
      if (next === undefined) at.children.push((next = { frame: index, self: 0, children: [] }));
      at = next;
    }
    at.self += value;
  }
  const nodes: Record<"parent" | "function" | "total" | "self", number[]> = { parent: [], function: [], total: [], self: [] };
  const put = (node: Node, parent: number): number => {
    const index = nodes.parent.push(parent) - 1;
    nodes.function.push(node.frame);
    nodes.self.push(node.self);
    nodes.total.push(0);
    nodes.total[index] = node.children.reduce((sum, child) => sum + put(child, index), node.self);
    return nodes.total[index]!;
  };
  const total = put(root, 0);
  return new Tree({
    ...{ from_ms: 0, until_ms: 1000, service: null, type: "process_cpu:cpu:nanoseconds:cpu:nanoseconds", total, all: total, profiles: 0, series: 0 },
    ...{ texts: { at: (index: number) => texts[index] }, functions, nodes, rows: { function: [], self: [], total: [] }, hidden: { nodes: 0, value: 0, rows: 0 } },
    ...change,
  });
}
