// Long names in little room: what tells functions apart stands at their end.

/** What C++ is called with, at the end of a name. */
const ARGUMENTS = /(?<=[\w>~=\]])\(.*\)(?: const)?(?: \[.*\])*$/;

/** A name in ever shorter forms: whole, without types and arguments, its last two parts, its last part. */
export function shorter(name: string): string[] {
  if (!name.includes("::")) return [name];
  const plain = withoutBrackets(unwrapped(name)).replace(ARGUMENTS, "").replace(/(?:::){2,}/g, "::").replace(/:+$/, "");
  const parts = plain.split("::").filter((part) => part !== "");
  return [name, plain, parts.slice(-2).join("::"), parts.at(-1) ?? plain];
}

/** The longest form of at most `room` letters, else the shortest of all. */
export function longest(forms: readonly string[], room: number): string {
  return forms.find((form) => form.length <= room) ?? forms.at(-1)!;
}

/** `<T as Trait>::f` is the `f` of `T`. */
function unwrapped(name: string): string {
  let depth = 0;
  let as = -1;
  for (let i = 0; i < name.length && (i === 0 || depth > 0); i++) {
    depth += step(name, i);
    if (i === 0 && depth === 0) return name;
    if (depth === 1 && as < 0 && name.startsWith(" as ", i)) as = i;
    if (depth === 0) return name.slice(1, as < 0 ? i : as) + name.slice(i + 1);
  }
  return name;
}

/** A name without what stands in angle brackets; an operator's own stay. */
function withoutBrackets(name: string): string {
  if (!name.includes("<")) return name;
  let out = "";
  let depth = 0;
  for (let i = 0; i < name.length; i++) {
    const by = step(name, i);
    if (by > 0) depth++;
    if (depth === 0) out += name[i];
    if (by < 0 && depth > 0) depth--;
  }
  return out === "" || depth !== 0 ? name : out;
}

/** Whether an angle bracket opens or closes there; that of an arrow does neither. */
function step(name: string, at: number): number {
  return name[at] === "<" ? 1 : name[at] === ">" && name[at - 1] !== "-" ? -1 : 0;
}
