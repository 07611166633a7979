/** Sets of characters as sorted, disjoint, inclusive ranges of code points: `[first, last, first, last, ...]`. */
export type CharacterSet = readonly number[];

const lastCodePoint = 0x10ffff;
const lastBmp = 0xffff;

export const allCharacters: CharacterSet = [0, lastCodePoint];
/** Those that are one unit of a JavaScript string, so that every way of counting a text's length agrees. */
export const bmpCharacters: CharacterSet = [0, lastBmp];

export function characterSet(ranges: Iterable<readonly [first: number, last: number]>): CharacterSet {
  const sorted = [...ranges].filter(([first, last]) => first <= last).sort(([a], [b]) => a - b);
  const set: number[] = [];
  for (const [first, last] of sorted) {
    const end = set.at(-1);
    if (end !== undefined && first <= end + 1) set[set.length - 1] = Math.max(end, last);
    else set.push(first, last);
  }
  return set;
}

export function rangesOf(set: CharacterSet): [first: number, last: number][] {
  return Array.from({ length: set.length / 2 }, (_, i) => [set[2 * i]!, set[2 * i + 1]!]);
}

export function union(...sets: CharacterSet[]): CharacterSet {
  return characterSet(sets.flatMap(rangesOf));
}

export function complement(set: CharacterSet): CharacterSet {
  const gaps: [number, number][] = [];
  let next = 0;
  for (const [first, last] of rangesOf(set)) {
    gaps.push([next, first - 1]);
    next = last + 1;
  }
  return characterSet([...gaps, [next, lastCodePoint]]);
}

export function intersection(a: CharacterSet, b: CharacterSet): CharacterSet {
  const common: number[] = [];
  for (let i = 0, j = 0; i < a.length && j < b.length; ) {
    const first = Math.max(a[i]!, b[j]!);
    const last = Math.min(a[i + 1]!, b[j + 1]!);
    if (first <= last) common.push(first, last);
    if (a[i + 1]! < b[j + 1]!) i += 2;
    else j += 2;
  }
  return common;
}

export function singleCharacter(set: CharacterSet): number | undefined {
  return set.length === 2 && set[0] === set[1] ? set[0] : undefined;
}

/** The characters of which `matches` is true. */
export function charactersThat(matches: (character: string) => boolean): CharacterSet {
  const set: number[] = [];
  let isInside = false;
  for (let point = 0; point <= lastCodePoint; point++) {
    const isSurrogate = point >= 0xd800 && point <= 0xdfff;
    const isMember = !isSurrogate && matches(String.fromCodePoint(point));
    if (isMember && !isInside) set.push(point);
    if (!isMember && isInside) set.push(point - 1);
    isInside = isMember;
  }
  if (isInside) set.push(lastCodePoint);
  return set;
}
