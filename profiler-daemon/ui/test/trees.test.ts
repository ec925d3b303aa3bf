// What is made of a tree: files, colours, comparisons, means.

import assert from "node:assert/strict";
import { test } from "node:test";
import type { Services } from "../src/api.js";
import { changeColor, groupOf, oklch } from "../src/colors.js";
import { escaped, folded, speedscope, svg, type Exported } from "../src/export.js";
import { levelled } from "../src/levels.js";
import { PRESETS } from "../src/presets.js";
import { gradeOf, qualityOf } from "../src/quality.js";
import { change, type Tree } from "../src/tree.js";
import { measuredMs, within } from "../src/within.js";
import { treeOf } from "./trees.js";

function exported(tree: Tree): Exported {
  return { tree, title: "a <b> & c", unit: "time", colorOf: () => "#123456", said: (value) => `${value} ns` };
}

test("children lie inside their parents, side by side", () => {
  const tree = treeOf({ "main;a": 3, "main;b;c": 5, main: 2, other: 1 });
  for (let i = 1; i < tree.count; i++) {
    const parent = tree.parent[i]!;
    assert.ok(tree.start[i]! >= tree.start[parent]! && tree.start[i]! + tree.widths[i]! <= tree.start[parent]! + tree.widths[parent]!);
  }
  assert.equal(tree.find(tree.keys(tree.count - 1)), tree.count - 1);
});

test("the deepest row has a frame, or what is too thin of one that is wide enough", () => {
  const tree = treeOf({ "main;a;b": 6, "main;a": 2, "main;x;y;z": 2 });
  assert.equal(tree.deepest(0), 4);
  assert.equal(tree.deepest(0, 3), 3, "x is thin");
  assert.equal(tree.deepest(0, 7), 2, "a is the last that is drawn");
  assert.equal(tree.deepest(0, 7, 8), 2, "what a called weighs six");
  assert.equal(tree.deepest(0, 6.5, 8), 2);
  const wide = treeOf({ "main;a": 4, "main;b": 4 });
  assert.equal(wide.deepest(0, 5), 1);
  assert.equal(wide.deepest(0, 5, 8), 2, "a and b together are wide enough");
  assert.equal(wide.deepest(0, 5, 9), 1, "main is too narrow for that");
});

test("folded stacks keep every unit, also of what was too light to be sent", () => {
  const tree = treeOf({ "main;a;b": 3, "main;a": 1, "we;ird": 2 });
  assert.equal(folded(exported(tree)), "main;a 1\nmain;a;b 3\nwe;ird 2\n");
  tree.totals[0]! += 4;
  assert.equal(folded(exported(tree)).split("\n").at(-2), "[too light to show] 4");
});

test("a speedscope file has frames by index and weights that add up", () => {
  const file = JSON.parse(speedscope(exported(treeOf({ "main;a": 3, "main;b@/lib/x.so": 4 }))));
  const [profile] = file.profiles;
  assert.equal(profile.endValue, 7);
  assert.deepEqual(
    profile.samples.map((stack: number[]) => stack.map((frame) => file.shared.frames[frame].name).join(";")),
    ["main;a", "main;b"],
  );
});

test("a name is text in an SVG, whatever it looks like", () => {
  const picture = svg(exported(treeOf({ 'std::vec<"&">': 5 })), 0);
  assert.ok(!picture.includes('<"'));
  assert.ok(picture.includes("std::vec&lt;&quot;&amp;&quot;&gt;"));
  assert.equal(escaped("a\u0000\ud800b"), "a\ufffd\ufffdb");
});

test("a change is that of shares, so that a longer range is no growth", () => {
  assert.equal(change(10, 100, 20, 200), 0);
  assert.equal(change(10, 100, 0, 200), 1);
  assert.equal(change(0, 100, 1, 200), -1);
  assert.equal(change(0, 0, 0, 0), 0);
  assert.equal(changeColor(0.04, "dark"), changeColor(0, "dark"));
  assert.ok(changeColor(0.5, "light") !== changeColor(-0.5, "light"));
});

test("a colour is that of the screen", () => {
  assert.equal(oklch(1, 0, 0), "#ffffff");
  assert.equal(oklch(0.628, 0.2577, 29.23), "#ff0000");
  assert.equal(oklch(0.452, 0.3132, 264.05), "#0000ff");
});

test("colours mean module, package or kind", () => {
  const fn = treeOf({ "tokio::run@/opt/app": 1 }).functionAt(1);
  assert.deepEqual(
    (["module", "package", "kind"] as const).map((by) => groupOf(fn, by)),
    ["/opt/app", "tokio", "user"],
  );
  assert.equal(groupOf(treeOf({ "[no mapping]": 1 }).functionAt(1), "module"), "not known");
});

test("of a level the mean is shown, not the sum", () => {
  const type = "memory:inuse_space:bytes:space:bytes";
  assert.equal(treeOf({ main: 40 }, { type, profiles: 4, series: 1 }).total, 10);
  assert.equal(treeOf({ main: 40 }, { type, profiles: 4, series: 2 }).total, 20);
  const service = { name: "a", total: 80, points: [0, 40, 40, 0] };
  const data = { now_ms: 0, from_ms: 0, until_ms: 80_000, step_ms: 20_000, interval_ms: 10_000, newest_ms: 80_000, cpus: null, agent: false, types: [type], type, group: "service_name", total: 80, services: [service], others: { services: 0, total: 0, points: [0, 0, 0, 0] } };
  const levels = levelled(data);
  assert.deepEqual([levels.total, levels.services[0]!.points], [20, [0, 20, 20, 0]]);
  assert.equal(within(levels, { from: 20_000, until: 60_000 }).total, 20);
  assert.equal(levelled({ ...data, type: "process_cpu:cpu:nanoseconds:cpu:nanoseconds" }).total, 80);
});

test("where stacks were cut most is said, and how far that can be trusted", () => {
  const quality = qualityOf(treeOf({ "[no frame pointer];f@/opt/m": 80, "[no frame pointer];g@/lib/x": 20, "main@/opt/m": 100 }));
  assert.deepEqual(quality.cut, [{ reason: "[no frame pointer]", value: 100, module: "/opt/m", share: 0.8 }]);
  assert.equal(gradeOf(quality), "poor");
  assert.equal(gradeOf({ ...quality, whole: 190 }), "good");
});

test("a row with nothing in it that can be seen is none", () => {
  const tree = treeOf({ "main;a;b;c": 1, "main;d;e": 99 });
  assert.deepEqual([0, 1, 2, 100].map((thinnest) => tree.deepest(0, thinnest)), [4, 4, 3, 1]);
  assert.equal(tree.deepest(1, 1000), 1);
});

test("nobody was idle before the first data", () => {
  const services = { from_ms: 1000, until_ms: 5000, step_ms: 1000, services: [{ name: "a", total: 5, points: [0, 0, 3, 0] }], others: { services: 0, total: 0, points: [0, 0, 0, 2] } } as unknown as Services;
  assert.equal(measuredMs(services, null), 2000);
  assert.equal(measuredMs(services, { from: 2000, until: 4000 }), 1000);
  assert.equal(measuredMs(services, { from: 4000, until: 5000 }), 1000);
  assert.equal(measuredMs(services, { from: 1000, until: 2000 }), 1000);
});

test("a legend of everything has what was too thin to be sent", () => {
  const tree = treeOf({ "main@/opt/m": 3 }, { rows: { function: [1], self: [9], total: [9] } });
  const heaviest = (node: number) => tree.groups(node, (fn) => fn.module, true)[0];
  assert.deepEqual([heaviest(0)?.value, heaviest(1)?.value], [9, 3]);
});

test("presets hide what they name and nothing else", () => {
  const hides = (name: string, module = "/opt/app") => PRESETS.filter(({ pattern }) => [name, module].some((text) => new RegExp(pattern.slice(1, -1), "i").test(text))).map(({ title }) => title);
  assert.deepEqual(hides("tokio::task::poll"), ["Async runtimes"]);
  assert.deepEqual(hides("<futures_util::future::Map<F> as x>::poll"), ["Async runtimes"]);
  assert.deepEqual(hides("std::rt::lang_start"), ["Rust's own machinery"]);
  assert.deepEqual(hides("malloc", "/usr/lib/x86_64-linux-gnu/libc.so.6"), ["libc and the loader"]);
  assert.deepEqual(hides("x", "/lib64/ld-linux-x86-64.so.2"), ["libc and the loader"]);
  assert.deepEqual(hides("inflate", "/usr/lib/libcurl.so.4"), []);
  assert.deepEqual(hides("runtime.mallocgc"), ["Go's runtime"]);
  assert.deepEqual(hides("sys_read", "[kernel]"), ["The kernel"]);
  assert.deepEqual(hides("my::tokio::thing"), []);
});
