// Conditions on labels, as a Pyroscope writes them: {service_name="a",host=~"web-.*"}.

export type Operator = "=" | "!=" | "=~" | "!~";

export const OPERATORS: readonly { operator: Operator; means: string }[] = [
  { operator: "=", means: "is" },
  { operator: "!=", means: "is not" },
  { operator: "=~", means: "matches" },
  { operator: "!~", means: "does not match" },
];

export interface Filter {
  name: string;
  operator: Operator;
  value: string;
}

/** A condition as it stands in an address: `host=~web-.*`. */
export function written({ name, operator, value }: Filter): string {
  return `${name}${operator}${value}`;
}

/** Reads what `written` wrote; `null` if it is nothing of that kind. */
export function read(text: string): Filter | null {
  const parts = /^([^=!~"{}]+)(=~|!~|!=|=)(.*)$/s.exec(text);
  if (parts === null) return null;
  return { name: parts[1]!, operator: parts[2] as Operator, value: parts[3]! };
}

function quoted(text: string): string {
  const escapes: Record<string, string> = { "\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t" };
  return `"${text.replace(/[\\"\n\r\t]/g, (letter) => escapes[letter]!)}"`;
}

/** All conditions together; `{}` if there are none. */
export function selector(filters: readonly Filter[]): string {
  // A name that is no plain word is quoted too.
  const name = (text: string) => (/^[\p{L}\p{N}_.:]+$/u.test(text) ? text : quoted(text));
  return `{${filters.map((filter) => `${name(filter.name)}${filter.operator}${quoted(filter.value)}`).join(",")}}`;
}
