// What the server tells, and how it is asked.

export interface Service {
  name: string;
  total: number;
  points: number[];
}

/** Who used how much, and when. */
export interface Services {
  now_ms: number;
  from_ms: number;
  until_ms: number;
  step_ms: number;
  interval_ms: number | null;
  newest_ms: number | null;
  cpus: number | null;
  /** The profiler of this machine started the server and pushes to it. */
  agent: boolean;
  types: string[];
  type: string;
  /** The label that services are told apart by. */
  group: string;
  total: number;
  services: Service[];
  others: { services: number; total: number; points: number[] };
}

export type Column = ArrayLike<number>;

/** In place of a shade: that of a function without a module whose name begins with a bracket, which may be what is missing. */
export const BRACKETED = 255;

/** Texts by number. */
export interface Texts {
  at(index: number): string | undefined;
}

/** One merged tree in columns: in arrays, or in what `columns.ts` makes of an answer. */
export interface FlameJson {
  from_ms: number;
  until_ms: number;
  service: string | null;
  type: string;
  total: number;
  /** What all stacks weigh, also those that a view of one function leaves out. */
  all: number;
  /** The same of the side that is compared with, if one is. */
  base_all?: number;
  /** Profiles that were merged, and series that they are of. */
  profiles: number;
  series: number;
  texts: Texts;
  /** The shade of each, or `BRACKETED`. */
  functions: { name: Column; file: Column; module: Column; line: Column; shade: Column };
  nodes: { parent: Column; function: Column; total: Column; self: Column; base_total?: Column; base_self?: Column };
  rows: { function: Column; self: Column; total: Column; base_total?: Column; base_self?: Column };
  hidden: { nodes: number; value: number; rows: number };
  /** The node below which more was sent, and what functions of each module weigh alone below it, too thin or not, by the heaviest of them. */
  below?: number;
  groups?: { function: Column; self: Column };
}

/** Milliseconds since the epoch, both part of the range. */
export interface Range {
  start: number;
  end: number;
}

/** What a question asks for; what is `null` is not said. */
export type Parameters = Record<string, string | number | null>;

/** An answer, and whether it is another than last time. */
export interface Answer<T> {
  changed: boolean;
  value: T;
  /** The same for all that is answered from the same data. */
  tag: string | null;
}

/** Longer than the server takes for anything; a server that hangs is a server that is gone. */
const TIMEOUT_MS = 15_000;

/** Asks one question again and again; an answer that is known already is not sent a second time. */
export class Question<T> {
  private known: { url: string; tag: string | null; value: T } | null = null;
  private asking: AbortController | null = null;

  /** `read` makes of an answer what it tells; unless said otherwise that is JSON. */
  constructor(private readonly read: (answer: Response) => Promise<T> = (answer) => answer.json() as Promise<T>) {}

  async ask(path: string, parameters: Parameters): Promise<Answer<T>> {
    const query = new URLSearchParams();
    for (const [name, value] of Object.entries(parameters)) {
      if (value !== null) query.set(name, String(value));
    }
    const url = `${path}?${query}`;
    // A newer question makes the older one idle.
    this.asking?.abort();
    const asking = (this.asking = new AbortController());
    const headers: Record<string, string> = {};
    const known = this.known?.url === url ? this.known : null;
    if (known?.tag != null) headers["If-None-Match"] = known.tag;
    // With nothing of the script around it: of who asks, whoever watches requests takes the stack, and to say where in a function that was
    // it is read once more, with all that is in it.
    await null;
    const signal = AbortSignal.any([asking.signal, AbortSignal.timeout(TIMEOUT_MS)]);
    const answer = await fetch(url, { headers, cache: "no-store", signal });
    if (answer.status === 304 && known !== null) return { changed: false, value: known.value, tag: known.tag };
    if (!answer.ok) throw new Error(await words(answer));
    const value = await this.read(answer);
    this.known = { url, tag: answer.headers.get("ETag"), value };
    return { changed: true, value, tag: this.known.tag };
  }

  /** Forgets the last answer. */
  forget(): void {
    this.known = null;
  }
}

/** Why an answer is none: the server's own words. */
async function words(answer: Response): Promise<string> {
  const text = (await answer.text()).trim();
  try {
    const { message } = JSON.parse(text) as { message?: unknown };
    if (typeof message === "string") return message;
  } catch {
    // Not all that answers speaks JSON.
  }
  return text === "" ? `status ${answer.status}` : text.slice(0, 300);
}

async function query(method: string, body: BodyInit, type: string): Promise<Response> {
  const answer = await fetch(`querier.v1.QuerierService/${method}`, { method: "POST", headers: { "Content-Type": type, Accept: `${type};allow-utf8-labelnames=true` }, body, signal: AbortSignal.timeout(TIMEOUT_MS) });
  if (!answer.ok) throw new Error(await words(answer));
  return answer;
}

/** Names of labels that a person may want to choose by, in that range. */
export async function labelNames({ start, end }: Range): Promise<string[]> {
  const answer = await query("LabelNames", JSON.stringify({ start, end }), "application/json");
  const { names = [] } = (await answer.json()) as { names?: string[] };
  return names.filter((name) => !name.startsWith("__"));
}

/** Values that a label has in that range. */
export async function labelValues(name: string, { start, end }: Range): Promise<string[]> {
  const answer = await query("LabelValues", JSON.stringify({ name, start, end }), "application/json");
  const { names = [] } = (await answer.json()) as { names?: string[] };
  return names;
}

/** All of a range as a pprof, not compressed. */
export async function pprof(type: string, selector: string, { start, end }: Range): Promise<Blob> {
  const text = new TextEncoder();
  const parts: number[] = [];
  const varint = (value: number) => {
    for (; value >= 128; value = Math.floor(value / 128)) parts.push((value % 128) | 128);
    parts.push(value);
  };
  // SelectMergeProfileRequest: type, selector, start, end.
  [type, selector].forEach((value, i) => {
    const bytes = text.encode(value);
    parts.push(((i + 1) << 3) | 2);
    varint(bytes.length);
    for (const byte of bytes) parts.push(byte);
  });
  [start, end].forEach((value, i) => {
    parts.push((i + 3) << 3);
    varint(value);
  });
  return (await query("SelectMergeProfile", new Uint8Array(parts), "application/proto")).blob();
}
