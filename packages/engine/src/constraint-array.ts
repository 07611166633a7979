/** JSON arrays: listed items, then further ones. */
import { empty, nothing, optional, repeat, sequence, text } from "./constraint-grammar.js";
import { comma } from "./constraint-object.js";
import type { NativeExpression } from "./native-addon.js";

export interface ArrayItems {
  /** The first items, each of its own kind. */
  listed: NativeExpression[];
  /** Those behind them; none when the array ends there. */
  further: NativeExpression | undefined;
  min: number;
  max: number;
}

export function arrayExpression({ listed, further, min, max }: ArrayItems): NativeExpression {
  const numListed = Math.min(listed.length, max);
  const more = (least: number, most: number) =>
    further ? repeat(sequence(comma, further), Math.max(least, 0), most) : least > 0 ? nothing : empty;
  // What may follow an item, from the last listed one backwards.
  let rest = more(min - numListed, max - numListed);
  for (let i = numListed - 1; i > 0; i--) {
    const item = sequence(comma, listed[i]!, rest);
    rest = i >= min ? optional(item) : item;
  }
  let items: NativeExpression = min > 0 ? nothing : empty;
  if (numListed > 0) items = sequence(listed[0]!, rest);
  else if (further && max > 0) items = sequence(further, more(min - 1, max - 1));
  return sequence(text("["), min === 0 ? optional(items) : items, text("]"));
}
