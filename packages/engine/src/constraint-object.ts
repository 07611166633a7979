/** JSON objects: properties in the order of the schema, then further ones. */
import { allCharacters, characterSet, complement, intersection, rangesOf } from "./constraint-characters.js";
import {
  choice,
  empty,
  jsonCharacter,
  optional,
  plainCharacter,
  type Rules,
  repeat,
  sequence,
  text,
} from "./constraint-grammar.js";
import type { NativeExpression } from "./native-addon.js";

export interface ObjectMembers {
  properties: { name: string; value: NativeExpression; isRequired: boolean }[];
  /** Further properties, at most `max`; `key` is a whole JSON string. */
  further?: { key: NativeExpression; value: NativeExpression; min: number; max: number };
}

/** A space may follow, or not: models write both. */
export const comma = sequence(text(","), optional(text(" ")));
const colon = sequence(text(":"), optional(text(" ")));

const maxKeyLength = 64;

export function objectExpression({ properties, further }: ObjectMembers, rules: Rules): NativeExpression {
  const members = properties.map(({ name, value, isRequired }) => ({
    member: rules.add(sequence(text(JSON.stringify(name)), colon, value)),
    isRequired,
  }));
  // What may follow a member, from the last property backwards; and what may come first.
  let afterMember: NativeExpression = empty;
  let first: NativeExpression = empty;
  if (further && further.max > 0) {
    const pair = rules.add(sequence(further.key, colon, further.value));
    const { min, max } = further;
    afterMember = repeat(sequence(comma, pair), min, max);
    const some = sequence(pair, repeat(sequence(comma, pair), Math.max(min - 1, 0), max - 1));
    first = min > 0 ? some : optional(some);
  }
  const starts = [first];
  for (const { member, isRequired } of members.reverse()) {
    const after = rules.add(afterMember);
    const next = sequence(comma, member);
    if (isRequired) starts.length = 0;
    starts.push(sequence(member, after));
    afterMember = sequence(isRequired ? next : optional(next), after);
  }
  return sequence(text("{"), choice(...starts), text("}"));
}

/** Keys other than `names`, as JSON strings without escapes: an escape could spell one of the names. */
export function keyOtherThan(names: readonly string[]): NativeExpression {
  const plain = complement(characterSet([[0, 0x1f], ...singles('"\\')]));
  const rest = (length: number) => repeat(plainCharacter(plain), 0, Math.max(maxKeyLength - length, 0));
  const except = (endings: readonly string[], length: number): NativeExpression => {
    const firsts = singles(endings.map((ending) => [...ending][0] ?? "").join(""));
    const others = intersection(plain, complement(characterSet(firsts)));
    const branches = [sequence(plainCharacter(others), rest(length + 1))];
    for (const [point] of rangesOf(intersection(plain, characterSet(firsts))).flatMap(pointsOf)) {
      const character = String.fromCodePoint(point);
      const further = endings.filter((ending) => ending.startsWith(character));
      branches.push(
        sequence(
          text(character),
          except(
            further.map((ending) => ending.slice(character.length)),
            length + 1,
          ),
        ),
      );
    }
    if (length > 0 && !endings.includes("")) branches.push(empty);
    return choice(...branches);
  };
  return sequence(text('"'), except(names, 0), text('"'));
}

/** Any key. */
export const anyKey: NativeExpression = sequence(
  text('"'),
  repeat(jsonCharacter(allCharacters), 1, maxKeyLength),
  text('"'),
);

function pointsOf([first, last]: [number, number]): [number][] {
  return Array.from({ length: last - first + 1 }, (_, i) => [first + i]);
}

function singles(characters: string): [number, number][] {
  return [...characters].map((character) => [character.codePointAt(0)!, character.codePointAt(0)!]);
}
