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

/** Frames as boxes of a picture, in how many rows, and how many branches are too thin for it. */
interface Boxes {
  boxes: string[];
  rows: number;
  thin: number;
}

/** The frames from `node` on: down from `top`, or `flipped` with their root in the last row. */
function boxesOf({ tree, colorOf, said }: Exported, node: number, top: number, flipped = false): Boxes {
  const scale = WIDTH / Math.max(tree.totals[node]!, Number.MIN_VALUE);
  const drawn: number[] = [];
  let [rows, thin] = [1, 0];
  for (let i = node; i < tree.end[node]!; ) {
    if (tree.totals[i]! * scale < WIDTH_MIN) {
      thin++;
      i = tree.end[i]!;
      continue;
    }
    rows = Math.max(rows, tree.depth[i]! - tree.depth[node]! + 1);
    drawn.push(i++);
  }
  const boxes = drawn.map((i) => {
    const name = i === 0 ? "all" : tree.functionOf(i).name;
    const width = tree.totals[i]! * scale;
    const x = (tree.start[i]! - tree.start[node]!) * scale;
    const row = tree.depth[i]! - tree.depth[node]!;
    const y = top + (flipped ? rows - 1 - row : row) * ROW;
    const room = Math.floor((width - 6) / 6.7);
    const label = name.length <= room ? name : room >= 3 ? `${[...name].slice(0, room - 1).join("")}…` : "";
    const text = label === "" ? "" : `<text x="${(x + 3).toFixed(1)}" y="${y + 12}">${escaped(label)}</text>`;
    return `<g><title>${escaped(`${name}\n${said(tree.totals[i]!)}`)}</title><rect x="${x.toFixed(2)}" y="${y}" width="${Math.max(width - 0.5, 0.3).toFixed(2)}" height="${ROW - 1}" rx="1.5" fill="${escaped(i === 0 ? "#dfe4ec" : colorOf(i))}"/>${text}</g>`;
  });
  return { boxes, rows, thin };
}

/** A picture of the graph from `node` down, without any script; of a sandwich with `callers` on top of the same function. */
export function svg(shown: Exported, node: number, callers: Exported | null = null): string {
  // The function is the first below the root, and the last row of its callers is the first of its callees.
  const above = callers === null ? { boxes: [], rows: 1, thin: 0 } : boxesOf(callers, Math.min(1, callers.tree.count - 1), HEAD, true);
  const below = boxesOf(shown, node, HEAD + (above.rows - 1) * ROW);
  const height = HEAD + (above.rows + below.rows - 1) * ROW + 8;
  const thin = above.thin + below.thin;
  const note = thin > 0 ? ` · ${thin} thin branches are not drawn` : "";
  return `<?xml version="1.0" encoding="UTF-8"?>
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" width="${WIDTH}" height="${height}" font-family="ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace" font-size="11">
<rect width="100%" height="100%" fill="#ffffff"/>
<text x="4" y="21" font-size="13" font-family="system-ui,sans-serif">${escaped(shown.title + note)}</text>
${[...above.boxes, ...below.boxes].join("\n")}
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
