/** Grammars as the addon compiles them, and short ways to write them. */
import { type CharacterSet, characterSet, complement, intersection, singleCharacter } from "./constraint-characters.js";
import type { NativeExpression } from "./native-addon.js";

export const nothing: NativeExpression = { choice: [] };
export const empty: NativeExpression = { text: "" };

export function text(text: string): NativeExpression {
  return { text };
}

export function sequence(...parts: NativeExpression[]): NativeExpression {
  const joined: NativeExpression[] = [];
  for (const part of parts.flatMap((part) => ("sequence" in part ? part.sequence : [part]))) {
    const last = joined.at(-1);
    if ("text" in part && part.text === "") continue;
    if (last && "text" in last && "text" in part) joined[joined.length - 1] = text(last.text + part.text);
    else joined.push(part);
  }
  return joined.length === 1 ? joined[0]! : joined.length === 0 ? empty : { sequence: joined };
}

export function choice(...parts: NativeExpression[]): NativeExpression {
  return parts.length === 1 ? parts[0]! : { choice: parts };
}

/** One of these, by common beginnings: however many there are, few places of the grammar are open at once. */
export function oneOfTexts(texts: readonly string[]): NativeExpression {
  const endings = new Map<string, string[]>();
  for (const each of new Set(texts)) {
    const first = [...each.slice(0, 2)][0] ?? "";
    const known = endings.get(first);
    if (known) known.push(each.slice(first.length));
    else endings.set(first, [each.slice(first.length)]);
  }
  const branches = [...endings].map(([first, rest]) =>
    rest.length === 1 ? text(first + rest[0]) : sequence(text(first), oneOfTexts(rest)),
  );
  return choice(...branches);
}

export function repeat(body: NativeExpression, min: number, max: number = Number.POSITIVE_INFINITY): NativeExpression {
  if (max < min) return nothing;
  if (max === 0) return empty;
  return { repeat: body, min, ...(max !== Number.POSITIVE_INFINITY && { max }) };
}

export function optional(body: NativeExpression): NativeExpression {
  return repeat(body, 0, 1);
}

/** One character as it stands. */
export function plainCharacter(set: CharacterSet): NativeExpression {
  const single = singleCharacter(set);
  return single === undefined ? { characters: [...set] } : text(String.fromCodePoint(single));
}

const escapes = new Map(['"', "\\", "\b", "\f", "\n", "\r", "\t"].map((c) => [c.charCodeAt(0), JSON.stringify(c)]));
const controls: CharacterSet = [0, 0x1f];
const needEscape = characterSet([[0, 0x1f], ...[0x22, 0x5c].map((point): [number, number] => [point, point])]);

/** One character inside a JSON string, escaped where it must be. */
export function jsonCharacter(set: CharacterSet): NativeExpression {
  const parts: NativeExpression[] = [];
  const raw = intersection(set, complement(needEscape));
  if (raw.length > 0) parts.push(plainCharacter(raw));
  const has = (point: number) => intersection(set, [point, point]).length > 0;
  for (const [point, escaped] of escapes) if (has(point)) parts.push(text(escaped.slice(1, -1)));
  const rest = intersection(set, controls);
  for (let point = 0; point < 0x20 && rest.length > 0; point++) {
    if (has(point) && !escapes.has(point)) parts.push(text(`\\u${point.toString(16).padStart(4, "0")}`));
  }
  return choice(...parts);
}

/** The rules of one grammar; rule 0 comes first. */
export class Rules {
  readonly rules: NativeExpression[] = [];

  /** A rule whose body is given later, so that it may refer to itself. */
  reserve(): { rule: NativeExpression; define(body: NativeExpression): void } {
    const index = this.rules.push(nothing) - 1;
    return {
      rule: { rule: index },
      define: (body) => {
        this.rules[index] = body;
      },
    };
  }

  add(body: NativeExpression): NativeExpression {
    return { rule: this.rules.push(body) - 1 };
  }
}
