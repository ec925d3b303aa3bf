// What the page shows as files for other tools: folded stacks, speedscope's JSON, an SVG that stands alone.

import type { Unit } from "./format.js";
import type { Tree } from "./tree.js";

/** What is exported: the tree and the colours and words of its frames. */
export interface Exported {
  tree: Tree;
  title: string;
  unit: Unit;
  colorOf(node: number): string;
  /** A value with its unit and its share. */
  said(value: number): string;
}

/** The name that stands for what was too light to be sent: no weight is lost on the way. */
const HIDDEN = "[too light to show]";

function whole(value: number): number {
  return Math.round(value);
}

/** Names from the root to `node`. */
function names(tree: Tree, node: number): string[] {
  return tree
    .path(node)
    .slice(1)
    .map((step) => tree.functionOf(step).name);
}

/** One stack a line: names from the root on with semicolons between them, and its own value. */
export function folded({ tree }: Exported): string {
  const lines: string[] = [];
  for (let node = 1; node < tree.count; node++) {
    const self = whole(tree.selfs[node]!);
    // What separates frames and lines cannot be part of a name.
    if (self > 0) lines.push(`${names(tree, node).map((name) => name.replace(/[;\n]/g, ":")).join(";")} ${self}`);
  }
  const hidden = whole(tree.hiddenBelow(0));
  if (hidden > 0) lines.push(`${HIDDEN} ${hidden}`);
  return `${lines.join("\n")}\n`;
}

/** A file of speedscope, https://www.speedscope.app/file-format-schema.json. */
export function speedscope({ tree, title, unit }: Exported): string {
  const frames = tree.functions.map(({ name, file, line, module }) => ({
    name,
    ...(file !== "" ? { file } : module !== "" ? { file: module } : {}),
    ...(line > 0 ? { line } : {}),
  }));
  const samples: number[][] = [];
  const weights: number[] = [];
  for (let node = 1; node < tree.count; node++) {
    if (tree.selfs[node]! <= 0) continue;
    samples.push(
      tree
        .path(node)
        .slice(1)
        .map((step) => tree.fn[step]!),
    );
    weights.push(whole(tree.selfs[node]!));
  }
  const hidden = whole(tree.hiddenBelow(0));
  if (hidden > 0) {
    samples.push([frames.push({ name: HIDDEN }) - 1]);
    weights.push(hidden);
  }
  const endValue = weights.reduce((sum, weight) => sum + weight, 0);
  return JSON.stringify({
    $schema: "https://www.speedscope.app/file-format-schema.json",
    name: title,
    exporter: "profiler-daemon",
    shared: { frames },
    profiles: [{ type: "sampled", name: title, unit: unit === "time" ? "nanoseconds" : unit === "bytes" ? "bytes" : "none", startValue: 0, endValue, samples, weights }],
  });
}

const WIDTH = 1400;
const ROW = 17;
const HEAD = 34;
/** Thinner frames are not drawn; the picture says so. */
const WIDTH_MIN = 0.3;

/** Text that is nothing but text in XML. Characters that XML has no place for become a replacement. */
export function escaped(text: string): string {
  const entities: Record<string, string> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
  return text.replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]|\p{Surrogate}/gu, "\ufffd").replace(/[&<>"]/g, (letter) => entities[letter]!);
}

/** A picture of the graph from `node` down, without any script. */
export function svg({ tree, title, colorOf, said }: Exported, node: number): string {
  const scale = WIDTH / Math.max(tree.totals[node]!, Number.MIN_VALUE);
  const [origin, top] = [tree.start[node]!, tree.depth[node]!];
  let depth = top;
  let left = 0;
  const boxes: string[] = [];
  for (let i = node; i < tree.end[node]!; ) {
    const width = tree.totals[i]! * scale;
    if (width < WIDTH_MIN) {
      left++;
      i = tree.end[i]!;
      continue;
    }
    depth = Math.max(depth, tree.depth[i]!);
    const name = i === 0 ? "all" : tree.functionOf(i).name;
    const x = (tree.start[i]! - origin) * scale;
    const y = HEAD + (tree.depth[i]! - top) * ROW;
    const room = Math.floor((width - 6) / 6.7);
    const label = name.length <= room ? name : room >= 3 ? `${[...name].slice(0, room - 1).join("")}…` : "";
    const text = label === "" ? "" : `<text x="${(x + 3).toFixed(1)}" y="${y + 12}">${escaped(label)}</text>`;
    boxes.push(`<g><title>${escaped(`${name}\n${said(tree.totals[i]!)}`)}</title><rect x="${x.toFixed(2)}" y="${y}" width="${Math.max(width - 0.5, 0.3).toFixed(2)}" height="${ROW - 1}" rx="1.5" fill="${escaped(i === 0 ? "#dfe4ec" : colorOf(i))}"/>${text}</g>`);
    i++;
  }
  const height = HEAD + (depth - top + 1) * ROW + 8;
  const note = left > 0 ? ` · ${left} thin branches are not drawn` : "";
  return `<?xml version="1.0" encoding="UTF-8"?>
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" width="${WIDTH}" height="${height}" font-family="ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace" font-size="11">
<rect width="100%" height="100%" fill="#ffffff"/>
<text x="4" y="21" font-size="13" font-family="system-ui,sans-serif">${escaped(title + note)}</text>
${boxes.join("\n")}
</svg>
`;
}

/** Hands a file to the person. */
export async function save(content: Blob | string, name: string, gzip = false): Promise<void> {
  let blob = typeof content === "string" ? new Blob([content]) : content;
  if (gzip) blob = await new Response(blob.stream().pipeThrough(new CompressionStream("gzip"))).blob();
  const url = URL.createObjectURL(blob);
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  // The browser has begun by then; without this the file would stay in memory.
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
