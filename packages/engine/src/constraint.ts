/** What a decode's text is kept to. */
import { plainCharacter } from "./constraint-grammar.js";
import { parseRegex, patternExpression } from "./constraint-regex.js";
import { schemaGrammar } from "./constraint-schema.js";
import { isSchema, type JsonSchema } from "./constraint-schema-merge.js";
import { DeftreeError } from "./errors.js";
import type { NativeCommand, NativeConstraint, NativeGrammar } from "./native-addon.js";
import { fromAddon } from "./step-dispatcher.js";

/**
 * A language that a decode keeps to, token by token. Its text is whole: it ends where the language lets it, and is brought
 * to its end before `maxTokens` or the context runs out.
 */
export type Constraint = ConstraintLanguage & {
  /** `maxTokens` may cut the text, so that a later decode, or that of a fork, can go on with it. */
  mayStayOpen?: boolean;
};

type ConstraintLanguage =
  /** JSON that matches this JSON Schema. Properties come in the schema's order; undeclared ones only where it allows them. */
  | { jsonSchema: object | boolean }
  /** Texts that it matches from end to end; a string is read with the flag u. */
  | { regex: string | RegExp }
  /** Where the branch's last decode, or that of the branch it was forked from, stopped. */
  | { continue: true };

/** Compiled constraints of one engine; those used last are kept. */
export class ConstraintCache {
  readonly #compile: (grammar: NativeGrammar) => NativeConstraint;
  readonly #compiled = new Map<string, NativeConstraint>();

  constructor(compile: (grammar: NativeGrammar) => NativeConstraint) {
    this.#compile = compile;
  }

  /**
   * As a decode command names it.
   * @throws DeftreeError E_BAD_ARGUMENT for a constraint that cannot be enforced, with the reason.
   */
  native({ mayStayOpen = false, ...language }: Constraint): DecodeCommand["constraint"] {
    return "continue" in language ? { mayStayOpen } : { language: this.#get(language), mayStayOpen };
  }

  #get(language: CompiledLanguage): NativeConstraint {
    const key = keyOf(language);
    const compiled = this.#compiled.get(key) ?? this.#make(language);
    this.#compiled.delete(key);
    this.#compiled.set(key, compiled);
    if (this.#compiled.size > maxCompiled) this.#compiled.delete(this.#compiled.keys().next().value!);
    return compiled;
  }

  #make(language: CompiledLanguage): NativeConstraint {
    const grammar = grammarOf(language);
    try {
      return this.#compile(grammar);
    } catch (error) {
      throw fromAddon(error);
    }
  }
}

const maxCompiled = 32;
type DecodeCommand = Extract<NativeCommand, { op: "decode" }>;

type CompiledLanguage = Exclude<ConstraintLanguage, { continue: true }>;

/** Schemas with the same properties in another order make another text. */
function keyOf(language: CompiledLanguage): string {
  return "regex" in language
    ? `${typeof language.regex} ${language.regex}`
    : `jsonSchema ${JSON.stringify(language.jsonSchema)}`;
}

function grammarOf(language: CompiledLanguage): NativeGrammar {
  if ("jsonSchema" in language) return schemaGrammar(language.jsonSchema as JsonSchema);
  const { regex } = language;
  const [source, flags] = typeof regex === "string" ? [regex, "u"] : [regex.source, regex.flags];
  return { rules: [patternExpression(parseRegex(source, { flags, match: "whole" }), plainCharacter)] };
}

/**
 * Whether a decode can be kept to it, as far as that can be told without a model.
 * @throws DeftreeError E_BAD_ARGUMENT with the reason.
 */
export function assertEnforceable(constraint: Constraint): void {
  checkConstraint(constraint);
  if (!("continue" in constraint)) grammarOf(constraint);
}

/** @throws DeftreeError E_BAD_ARGUMENT */
export function checkConstraint(constraint: Constraint): void {
  const given = (typeof constraint === "object" && constraint !== null ? constraint : {}) as Record<string, unknown>;
  const { mayStayOpen, ...language } = given;
  const [name, ...others] = Object.keys(language).filter((key) => language[key] !== undefined);
  const value = language[name ?? ""];
  const isValid =
    (name === "jsonSchema" && isSchema(value)) ||
    (name === "regex" && (typeof value === "string" || value instanceof RegExp)) ||
    (name === "continue" && value === true);
  if (isValid && others.length === 0 && (mayStayOpen === undefined || typeof mayStayOpen === "boolean")) return;
  throw new DeftreeError(
    "E_BAD_ARGUMENT",
    `constraint is one of { jsonSchema }, { regex } and { continue: true }, with mayStayOpen or without; got ${JSON.stringify(constraint)?.slice(0, 200)}`,
  );
}
