/** Regular expressions as patterns: what is left of one when groups, anchors and greed are gone. */
import { type AST, RegExpParser } from "@eslint-community/regexpp";
import {
  bmpCharacters,
  type CharacterSet,
  characterSet,
  charactersThat,
  complement,
  intersection,
  union,
} from "./constraint-characters.js";
import { choice, repeat, sequence } from "./constraint-grammar.js";
import { DeftreeError } from "./errors.js";
import type { NativeExpression } from "./native-addon.js";

export type Pattern =
  | { set: CharacterSet }
  | { sequence: Pattern[] }
  | { choice: Pattern[] }
  | { repeat: Pattern; min: number; max: number };

export interface RegexOptions {
  flags: string;
  /** `"whole"`: texts that it matches from end to end. `"search"`: texts in which it is found, as in JSON Schema. */
  match: "whole" | "search";
  /** Only characters of one UTF-16 unit: those that expressions with and without the flag u read alike. */
  bmpOnly?: boolean;
}

const maxLength = 25_000;

/** @throws DeftreeError E_BAD_ARGUMENT for a malformed expression, and for what no finite automaton can follow. */
export function parseRegex(source: string, options: RegexOptions): Pattern {
  const { flags } = options;
  if (source.length > maxLength) {
    throw new DeftreeError(
      "E_BAD_ARGUMENT",
      `the regular expression is ${source.length} characters long; constraints take up to ${maxLength}`,
      { figures: { length: source.length, maxLength } },
    );
  }
  const shown = `/${source}/${flags}`;
  try {
    const unicode = flags.includes("u");
    const pattern = new RegExpParser().parsePattern(source, 0, source.length, { unicode });
    return new Converter(shown, options).alternatives(pattern.alternatives, options.match);
  } catch (cause) {
    if (DeftreeError.isInstance(cause)) throw cause;
    throw new DeftreeError("E_BAD_ARGUMENT", `${shown} is no regular expression: ${(cause as Error).message}`, {
      cause,
    });
  }
}

/** @param character how one character of a set is written. */
export function patternExpression(
  pattern: Pattern,
  character: (set: CharacterSet) => NativeExpression,
): NativeExpression {
  if ("set" in pattern) return character(pattern.set);
  if ("sequence" in pattern) return sequence(...pattern.sequence.map((part) => patternExpression(part, character)));
  if ("choice" in pattern) return choice(...pattern.choice.map((part) => patternExpression(part, character)));
  return repeat(patternExpression(pattern.repeat, character), pattern.min, pattern.max);
}

const anyText: Pattern = { repeat: { set: bmpCharacters }, min: 0, max: Number.POSITIVE_INFINITY };
const lineEnds = characterSet([0x0a, 0x0d, 0x2028, 0x2029].map((point) => [point, point]));
const classes = {
  digit: characterSet([[0x30, 0x39]]),
  word: characterSet([
    [0x30, 0x39],
    [0x41, 0x5a],
    [0x5f, 0x5f],
    [0x61, 0x7a],
  ]),
  space: characterSet([
    [0x09, 0x0d],
    [0x20, 0x20],
    [0xa0, 0xa0],
    [0x1680, 0x1680],
    [0x2000, 0x200a],
    [0x2028, 0x2029],
    [0x202f, 0x202f],
    [0x205f, 0x205f],
    [0x3000, 0x3000],
    [0xfeff, 0xfeff],
  ]),
};
/** By source and flags, of sets that only JavaScript itself can tell. */
const askedSets = new Map<string, CharacterSet>();

class Converter {
  constructor(
    private readonly shown: string,
    private readonly options: RegexOptions,
  ) {}

  alternatives(alternatives: readonly AST.Alternative[], match: "whole" | "search"): Pattern {
    return { choice: alternatives.map(({ elements }) => this.#alternative([...elements], match)) };
  }

  #alternative(elements: AST.Element[], match: "whole" | "search"): Pattern {
    const takeAnchors = (kind: "start" | "end", at: 0 | -1) => {
      let isAnchored = false;
      for (let edge = elements.at(at); edge?.type === "Assertion" && edge.kind === kind; edge = elements.at(at)) {
        if (this.options.flags.includes("m")) this.#refuse("the flag m, under which anchors match inside of a text");
        elements.splice(at, 1);
        isAnchored = true;
      }
      return isAnchored || match === "whole";
    };
    const fromStart = takeAnchors("start", 0);
    const toEnd = takeAnchors("end", -1);
    const [only] = elements;
    if (elements.length === 1 && isGroup(only) && fromStart === toEnd) {
      this.#checkModifiers(only);
      return this.alternatives(only.alternatives, fromStart ? "whole" : "search");
    }
    const body = elements.map((element) => this.#element(element));
    return { sequence: [...(fromStart ? [] : [anyText]), ...body, ...(toEnd ? [] : [anyText])] };
  }

  #element(element: AST.Element): Pattern {
    switch (element.type) {
      case "Group":
      case "CapturingGroup":
        this.#checkModifiers(element);
        return {
          choice: element.alternatives.map(({ elements }) => ({
            sequence: elements.map((each) => this.#element(each)),
          })),
        };
      case "Quantifier":
        return { repeat: this.#element(element.element), min: element.min, max: element.max };
      case "Character":
      case "CharacterSet":
      case "CharacterClass":
        return { set: this.#setOf(element) };
      case "Assertion":
        if (element.kind === "lookahead" || element.kind === "lookbehind") {
          return this.#refuse(`the ${element.kind} ${element.raw}: a constraint cannot look around`);
        }
        if (element.kind === "word") return this.#refuse(`the word boundary ${element.raw}`);
        return this.#refuse(
          `the anchor ${element.raw} inside of it; anchors may stand at the ends of its alternatives`,
        );
      case "Backreference":
        return this.#refuse(`the backreference ${element.raw}: a constraint cannot remember what a group matched`);
      default:
        return this.#refuse(`${element.raw}: sets of the flag v are not supported`);
    }
  }

  #checkModifiers(group: AST.Group | AST.CapturingGroup): void {
    if (group.type === "Group" && group.modifiers) this.#refuse(`the modifiers of ${group.raw}`);
  }

  #setOf(node: AST.Character | AST.CharacterSet | AST.CharacterClass): CharacterSet {
    const { flags, bmpOnly } = this.options;
    if (node.type === "Character") {
      const { value } = node;
      if (value >= 0xd800 && value <= 0xdfff) {
        this.#refuse("half of a character beyond U+FFFF; give it the flag u");
      }
      return flags.includes("i") ? this.#caseVariants(value) : [value, value];
    }
    const set = flags.includes("i") ? this.#ask(node.raw) : this.#plainSet(node);
    // Without the flag u, an expression sees a character beyond U+FFFF as two.
    return bmpOnly || !flags.includes("u") ? intersection(set, bmpCharacters) : set;
  }

  #plainSet(node: AST.CharacterSet | AST.CharacterClass): CharacterSet {
    if (node.type === "CharacterSet") {
      if (node.kind === "any") return this.options.flags.includes("s") ? complement([]) : complement(lineEnds);
      if (node.kind === "property") return this.#ask(node.raw);
      return node.negate ? complement(classes[node.kind]) : classes[node.kind];
    }
    const members = node.elements.map((element): CharacterSet => {
      if (element.type === "Character") return [element.value, element.value];
      if (element.type === "CharacterClassRange") return [element.min.value, element.max.value];
      if (element.type === "CharacterSet") return this.#plainSet(element);
      return this.#refuse(`${element.raw}: sets of the flag v are not supported`);
    });
    return node.negate ? complement(union(...members)) : union(...members);
  }

  /** Characters that differ in case only; those whose fellows JavaScript alone knows are left out. */
  #caseVariants(point: number): CharacterSet {
    const character = String.fromCodePoint(point);
    const variants = [character, character.toLowerCase(), character.toUpperCase()].filter(
      (variant) => variant.length === character.length,
    );
    return characterSet(variants.map((variant) => [variant.codePointAt(0)!, variant.codePointAt(0)!]));
  }

  #ask(raw: string): CharacterSet {
    const flags = this.options.flags.replace(/[^ius]/g, "");
    const key = `${flags} ${raw}`;
    let set = askedSets.get(key);
    if (set === undefined) {
      const expression = new RegExp(`^${raw}$`, flags);
      set = charactersThat((character) => expression.test(character));
      askedSets.set(key, set);
    }
    return set;
  }

  #refuse(what: string): never {
    throw new DeftreeError("E_BAD_ARGUMENT", `${this.shown} cannot be enforced: it has ${what}`);
  }
}

function isGroup(element: AST.Element | undefined): element is AST.Group | AST.CapturingGroup {
  return element?.type === "Group" || element?.type === "CapturingGroup";
}
