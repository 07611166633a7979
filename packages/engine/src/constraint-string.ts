/** JSON strings by their length, patterns and format. */
import { automatonOf, intersect, lengthAutomaton } from "./constraint-automaton.js";
import { allCharacters, bmpCharacters } from "./constraint-characters.js";
import { jsonCharacter, type Rules, repeat, sequence, text } from "./constraint-grammar.js";
import { type Pattern, parseRegex, patternExpression } from "./constraint-regex.js";
import type { NativeExpression } from "./native-addon.js";

export interface StringBounds {
  minLength?: number;
  maxLength?: number;
  patterns: readonly Pattern[];
}

/** @throws DeftreeError E_BAD_ARGUMENT when patterns and bounds together are too large. */
export function stringExpression({ minLength = 0, maxLength, patterns }: StringBounds, rules: Rules): NativeExpression {
  const max = maxLength ?? Number.POSITIVE_INFINITY;
  const quote = text('"');
  if (patterns.length === 0) {
    // JSON Schema counts characters, JavaScript's libraries count UTF-16 units: the same where a unit is a character.
    const character = jsonCharacter(maxLength === undefined ? allCharacters : bmpCharacters);
    return sequence(quote, repeat(character, minLength, max), quote);
  }
  const [only, ...others] = patterns;
  const bounds = lengthsOf(only!);
  if (others.length === 0 && bounds.min >= minLength && bounds.max <= max) {
    return sequence(quote, patternExpression(only!, jsonCharacter), quote);
  }
  const lengths = minLength === 0 && maxLength === undefined ? [] : [lengthAutomaton(minLength, max)];
  return sequence(quote, intersect([...patterns.map(automatonOf), ...lengths], jsonCharacter, rules), quote);
}

function lengthsOf(pattern: Pattern): { min: number; max: number } {
  if ("set" in pattern) return { min: 1, max: 1 };
  if ("repeat" in pattern) {
    const { min, max } = lengthsOf(pattern.repeat);
    return { min: min * pattern.min, max: max === 0 ? 0 : max * pattern.max };
  }
  const parts = ("sequence" in pattern ? pattern.sequence : pattern.choice).map(lengthsOf);
  if ("sequence" in pattern) {
    return parts.reduce((sum, part) => ({ min: sum.min + part.min, max: sum.max + part.max }), { min: 0, max: 0 });
  }
  return { min: Math.min(...parts.map(({ min }) => min)), max: Math.max(...parts.map(({ max }) => max)) };
}

const day = "\\d{4}-((0[13578]|1[02])-(0[1-9]|[12]\\d|3[01])|(0[469]|11)-(0[1-9]|[12]\\d|30)|02-(0[1-9]|1\\d|2[0-8]))";
const time = "([01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(\\.\\d{1,3})?";
const byte = "(25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)";
const label = "[a-zA-Z0-9]([a-zA-Z0-9-]{0,20}[a-zA-Z0-9])?";
const host = `${label}(\\.${label}){0,3}`;

/** Formats that are enforced, each by an expression that is stricter than its definition, so that every checker agrees. */
const formats: Readonly<Record<string, string>> = {
  date: day,
  time: `${time}Z`,
  "date-time": `${day}T${time}Z`,
  duration: "P(\\d{1,4}D|(\\d{1,4}D)?T(\\d{1,4}H(\\d{1,2}M)?(\\d{1,2}S)?|\\d{1,4}M(\\d{1,2}S)?|\\d{1,4}S)|\\d{1,4}W)",
  email: `[A-Za-z0-9_]([A-Za-z0-9_-]{0,30}[A-Za-z0-9_])?(\\.[A-Za-z0-9_]{1,16}){0,3}@(${label}\\.){1,3}[A-Za-z]{2,8}`,
  hostname: host,
  ipv4: `${byte}(\\.${byte}){3}`,
  ipv6: "[0-9a-fA-F]{1,4}(:[0-9a-fA-F]{1,4}){7}",
  uri: `https?:\\/\\/${host}\\.[a-z]{2,8}(:[1-9]\\d{1,3})?(\\/[A-Za-z0-9_.~-]{1,40}){0,8}\\/?(\\?[A-Za-z0-9_=&-]{1,60})?`,
  uuid: "[0-9a-f]{8}-[0-9a-f]{4}-[1-5][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}",
};
export const formatNames: readonly string[] = Object.keys(formats);

/** Undefined for a format that is not enforced. */
export function formatPattern(format: string): Pattern | undefined {
  const source = Object.hasOwn(formats, format) ? formats[format] : undefined;
  return source === undefined ? undefined : parseRegex(source, { flags: "u", match: "whole" });
}
