// A merged tree as the server writes it for the page: numbers that are ready to be used where they lie, and one long text.
//
// In: four bytes that say how long the head is, the head in JSON, then one column after the other, each from a multiple of
// eight bytes on, all numbers little-endian. Out: the same as from JSON, but nothing of it is read before it is needed.

import type { Column, FlameJson, Texts } from "./api.js";

const ARRAYS = { 1: Uint8Array, 2: Uint16Array, 4: Uint32Array, 8: Float64Array };

/** What of a tree is not in columns, and where the columns are. */
interface Head {
  /** Group, name, bytes of one number (of eight a float, of fewer a whole number), count. */
  columns: [string, string, keyof typeof ARRAYS, number][];
  /** Bytes of all texts. */
  texts: number;
}

/** Texts that are cut out of a long one when they are asked for. */
class Cut implements Texts {
  /** Those that were asked for: of files and modules there are few, and many functions are theirs. */
  private readonly cut: string[];

  constructor(
    private readonly text: string,
    /** Where each ends, UTF-16 units. */
    private readonly ends: Column,
  ) {
    this.cut = new Array<string>(ends.length);
  }

  at(index: number): string {
    return (this.cut[index] ??= this.text.slice(this.from(index), this.ends[index]!));
  }

  private from(index: number): number {
    return index === 0 ? 0 : this.ends[index - 1]!;
  }
}

/** Reads an answer to `form=columns`. */
export async function columns(answer: Response): Promise<FlameJson> {
  const bytes = await answer.arrayBuffer();
  const text = (at: number, length: number) => new TextDecoder().decode(new Uint8Array(bytes, at, length));
  const length = new DataView(bytes).getUint32(0, true);
  const { columns, texts, ...head } = JSON.parse(text(4, length)) as Head & Omit<FlameJson, "texts">;
  const groups: Record<string, Record<string, Column>> = {};
  let at = 4 + length;
  const aligned = () => (at = Math.ceil(at / 8) * 8);
  for (const [group, name, size, count] of columns) {
    (groups[group] ??= {})[name] = new ARRAYS[size](bytes, aligned(), count);
    at += size * count;
  }
  return { ...head, ...groups, texts: new Cut(text(aligned(), texts), groups["texts"]!["end"]!) } as FlameJson;
}
