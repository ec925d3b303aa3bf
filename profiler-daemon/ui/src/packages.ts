// Which package a function belongs to, read from its name and file as languages write them.

import { basename } from "./format.js";

/** What compilers append to the name of a part of a function. */
const PARTS = /\.(?:part|isra|constprop|cold|llvm|lto_priv|specialized|localalias)(?:\.\d+)*/g;

/** The package, crate, namespace or library of a function; the file it runs from where its name tells nothing. */
export function packageOf(name: string, file: string, module: string): string {
  const installed = /(?:node_modules|site-packages|dist-packages)\/((?:@[^/]+\/)?[^/]+)/.exec(file);
  if (installed !== null) return installed[1]!.replace(/\.py$/, "");
  const plain = name.replace(PARTS, "");
  if (plain.includes("::")) return firstSegment(plain);
  // Java: small words, then a class.
  const java = /^((?:[a-z_]\w*[./])+)[A-Z]\w*[.$]/.exec(plain);
  if (java !== null) return java[1]!.slice(0, -1).replaceAll("/", ".");
  // Go: the path, then what follows its last slash up to the first dot.
  const go = /^((?:[\w.~-]+\/)+[\w~-]+(?:%2e[\w~-]+)*)\./.exec(plain);
  if (go !== null) return go[1]!.replaceAll("%2e", ".");
  const dotted = /^([A-Za-z_]\w*)\.[(A-Za-z_]/.exec(plain);
  if (dotted !== null) return dotted[1]!;
  return basename(module);
}

/** Rust and C++: the first part of the path, inside `<T as Trait>` that of `T`. */
function firstSegment(name: string): string {
  const inside = name.replace(/^(?:[<&*[(]|mut |const |dyn |impl )+/, "");
  const first = /^[\w$~]+/.exec(inside)?.[0] ?? "";
  // `<[T]>::sort`, `<u8>::f`, `operator`: of the language itself.
  return first === "" || !inside.startsWith(`${first}::`) ? "core" : first;
}
