// A number for a text, the same in every answer.

/** FNV-1a over UTF-16 units, of all of `text` or of a part: short enough for an address. */
export function hash(text: string, from = 0, end = text.length): number {
  let value = 0x811c9dc5;
  for (let i = from; i < end; i++) {
    value ^= text.charCodeAt(i);
    value = Math.imul(value, 0x01000193);
  }
  return value >>> 0;
}
