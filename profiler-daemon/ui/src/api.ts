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
  types: string[];
  type: string;
  total: number;
  services: Service[];
  others: { services: number; total: number; points: number[] };
}

/** One merged tree in columns. */
export interface FlameJson {
  from_ms: number;
  until_ms: number;
  service: string | null;
  type: string;
  total: number;
  texts: string[];
  functions: { name: number[]; file: number[]; module: number[]; line: number[] };
  nodes: { parent: number[]; function: number[]; total: number[]; self: number[] };
  rows: { function: number[]; self: number[]; total: number[] };
  hidden: { nodes: number; value: number; rows: number };
}

/** An answer, or the same as last time. */
export type Answer<T> = { changed: true; value: T } | { changed: false };

/** Longer than the server takes for anything; a server that hangs is a server that is gone. */
const TIMEOUT_MS = 15_000;

/** Asks one question again and again; an answer that is known already is not sent a second time. */
export class Question<T> {
  private tag: string | null = null;
  private url = "";
  private asking: AbortController | null = null;

  async ask(path: string, parameters: Record<string, string | number | null>): Promise<Answer<T>> {
    const query = new URLSearchParams();
    for (const [name, value] of Object.entries(parameters)) {
      if (value !== null) query.set(name, String(value));
    }
    const url = `${path}?${query}`;
    // A newer question makes the older one idle.
    this.asking?.abort();
    const asking = (this.asking = new AbortController());
    const headers: Record<string, string> = {};
    if (this.tag !== null && url === this.url) headers["If-None-Match"] = this.tag;
    const signal = AbortSignal.any([asking.signal, AbortSignal.timeout(TIMEOUT_MS)]);
    const answer = await fetch(url, { headers, cache: "no-store", signal });
    if (answer.status === 304) return { changed: false };
    if (!answer.ok) throw new Error((await answer.text()).trim() || `status ${answer.status}`);
    const value = (await answer.json()) as T;
    this.url = url;
    this.tag = answer.headers.get("ETag");
    return { changed: true, value };
  }

  /** Forgets the last answer. */
  forget(): void {
    this.tag = null;
  }
}
