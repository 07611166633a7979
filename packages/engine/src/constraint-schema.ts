/** From a JSON Schema to the grammar of values that match it, or the reason why there is none. */

import { arrayExpression } from "./constraint-array.js";
import { choice, nothing, oneOfTexts, optional, Rules, repeat, sequence, text } from "./constraint-grammar.js";
import { numberExpression } from "./constraint-number.js";
import { anyKey, comma, objectExpression } from "./constraint-object.js";
import { parseRegex } from "./constraint-regex.js";
import {
  assertionsOf,
  formatsOf,
  isSame,
  isSchema,
  type JsonSchema,
  keywordsOf,
  mergeSchemas,
  patternsOf,
  refuse,
  type SchemaObject,
} from "./constraint-schema-merge.js";
import { objectMembers } from "./constraint-schema-object.js";
import { checkDisjoint, countOf, isOfType, listOf, typesOf } from "./constraint-schema-types.js";
import { formatNames, formatPattern, stringExpression } from "./constraint-string.js";
import { DeftreeError } from "./errors.js";
import type { NativeExpression, NativeGrammar } from "./native-addon.js";

/** Arrays and objects inside of a value of no schema. */
const anyValueDepth = 5;
const maxDepth = 100;
const maxSchemas = 10_000;
const maxListed = 10_000;

/** @throws DeftreeError E_BAD_ARGUMENT that names the keyword and its place. */
export function schemaGrammar(schema: JsonSchema): NativeGrammar {
  const compiler = new SchemaCompiler(schema);
  return compiler.grammar();
}

class SchemaCompiler {
  readonly #rules = new Rules();
  readonly #namedRules = new Map<string, NativeExpression>();
  readonly #anyValues: NativeExpression[] = [];
  #numSchemas = 0;

  constructor(private readonly root: JsonSchema) {}

  grammar(): NativeGrammar {
    const start = this.#rules.reserve();
    start.define(this.#schema(this.root, "", 0));
    return { rules: this.#rules.rules };
  }

  #schema(schema: unknown, pointer: string, depth: number): NativeExpression {
    if (!isSchema(schema)) return refuse(pointer, "a schema is an object or a boolean");
    if (schema === true) return this.#anyValue(anyValueDepth);
    if (schema === false) return nothing;
    if (depth > maxDepth) return refuse(pointer, `it is nested more than ${maxDepth} levels deep`);
    if (++this.#numSchemas > maxSchemas) return refuse(pointer, `it spells out more than ${maxSchemas} schemas`);
    const own = assertionsOf(schema, pointer);
    if (typeof own.$ref === "string" && Object.keys(own).length === 1) return this.#reference(own.$ref, pointer, depth);
    if (own.$ref === undefined && own.allOf === undefined) return this.#flat(own, pointer, depth);
    return this.#merged(this.#flatten(own, pointer, depth), pointer, depth);
  }

  /** What was made of several schemas is named by what it says, so that it, too, may come up in itself. */
  #merged(schema: SchemaObject, pointer: string, depth: number): NativeExpression {
    const name = JSON.stringify([schema, patternsOf(schema), formatsOf(schema)]);
    return this.#named(name, () => this.#flat(schema, pointer, depth));
  }

  #reference(ref: string, pointer: string, depth: number): NativeExpression {
    return this.#named(ref, () => this.#schema(this.#resolve(ref, pointer), ref.slice(1), depth + 1));
  }

  /** The rule of that name; while it is being made, it may already be referred to. */
  #named(name: string, make: () => NativeExpression): NativeExpression {
    const known = this.#namedRules.get(name);
    if (known) return known;
    const { rule, define } = this.#rules.reserve();
    this.#namedRules.set(name, rule);
    define(make());
    return rule;
  }

  #resolve(ref: string, pointer: string): JsonSchema {
    if (!ref.startsWith("#")) return refuse(`${pointer}/$ref`, `"${ref}" lies outside of this schema`);
    let target: unknown = this.root;
    for (const part of ref.slice(1).split("/").slice(1)) {
      const key = decodeURIComponent(part).replaceAll("~1", "/").replaceAll("~0", "~");
      target =
        typeof target === "object" && target !== null && Object.hasOwn(target, key)
          ? (target as SchemaObject)[key]
          : undefined;
    }
    if (!isSchema(target) || !/^#(\/|$)/.test(ref)) return refuse(`${pointer}/$ref`, `"${ref}" points at no schema`);
    return target;
  }

  /** Takes in what `$ref` beside other keywords and `allOf` say. */
  #flatten(schema: SchemaObject, pointer: string, depth: number): SchemaObject {
    if (depth > maxDepth) return refuse(pointer, "it refers to itself without end");
    const { $ref, allOf, ...rest } = schema;
    const parts: unknown[] = [];
    if ($ref !== undefined) parts.push(this.#resolve(String($ref), pointer));
    if (allOf !== undefined) parts.push(...listOf(allOf, `${pointer}/allOf`));
    return parts.reduce((merged: SchemaObject, part) => {
      return mergeSchemas(merged, this.#flattened(part, pointer, depth + 1), pointer);
    }, rest);
  }

  #flattened(schema: unknown, pointer: string, depth: number): SchemaObject {
    if (!isSchema(schema)) return refuse(pointer, "a schema is an object or a boolean");
    if (typeof schema === "boolean") return schema ? {} : { enum: [] };
    return this.#flatten(assertionsOf(schema, pointer), pointer, depth);
  }

  #flat(schema: SchemaObject, pointer: string, depth: number): NativeExpression {
    for (const keyword of ["anyOf", "oneOf"] as const) {
      if (schema[keyword] === undefined) continue;
      const { [keyword]: listed, ...rest } = schema;
      const branches = listOf(listed, `${pointer}/${keyword}`).map((branch, i) => {
        const place = `${pointer}/${keyword}/${i}`;
        return mergeSchemas(rest, this.#flattened(branch, place, depth), place);
      });
      if (keyword === "oneOf") checkDisjoint(branches, `${pointer}/oneOf`);
      const isAlone = Object.keys(rest).length === 0 && patternsOf(rest).length + formatsOf(rest).length === 0;
      const options = branches.map((branch, i) => {
        const place = `${pointer}/${keyword}/${i}`;
        return isAlone
          ? this.#schema((listed as unknown[])[i], place, depth + 1)
          : this.#merged(branch, place, depth + 1);
      });
      return choice(...options);
    }
    if (schema.const !== undefined || schema.enum !== undefined) return this.#listed(schema, pointer);
    return choice(...typesOf(schema, pointer).map((type) => this.#typed(type, schema, pointer, depth)));
  }

  #listed(schema: SchemaObject, pointer: string): NativeExpression {
    const { type, enum: listed, const: only, ...others } = schema;
    let values = listed === undefined ? [only] : listOf(listed, `${pointer}/enum`);
    if (listed !== undefined && only !== undefined) values = values.filter((value) => isSame(value, only));
    if (type !== undefined) values = values.filter((value) => typesOf(schema, pointer).some((t) => isOfType(value, t)));
    for (const keyword of Object.keys(others)) {
      const of = Object.entries(keywordsOf).find(([, keywords]) =>
        (keywords as readonly string[]).includes(keyword),
      )?.[0];
      if (values.some((value) => isOfType(value, of ?? ""))) {
        refuse(`${pointer}/${keyword}`, `"${keyword}" beside "enum" or "const" is not supported; list what it allows`);
      }
    }
    if (values.length > maxListed)
      refuse(`${pointer}/enum`, `it lists ${values.length} values; supported are ${maxListed}`);
    return oneOfTexts(values.map((value) => JSON.stringify(value)));
  }

  #typed(type: string, schema: SchemaObject, pointer: string, depth: number): NativeExpression {
    switch (type) {
      case "object":
        return objectExpression(objectMembers(schema, pointer, this.#members(depth)), this.#rules);
      case "array":
        return this.#array(schema, pointer, depth);
      case "string":
        return this.#string(schema, pointer);
      case "boolean":
        return choice(text("true"), text("false"));
      case "null":
        return text("null");
      default:
        return this.#number(type === "integer", schema, pointer);
    }
  }

  #members(depth: number) {
    return {
      value: (schema: unknown, pointer: string) => this.#schema(schema, pointer, depth + 1),
      string: (schema: SchemaObject, pointer: string) => this.#string(schema, pointer),
      flatten: (schema: unknown, pointer: string) => this.#flattened(schema, pointer, depth + 1),
    };
  }

  #array(schema: SchemaObject, pointer: string, depth: number): NativeExpression {
    const isTuple = Array.isArray(schema.items);
    const prefix = listOf((isTuple ? schema.items : schema.prefixItems) ?? [], `${pointer}/prefixItems`);
    const restName = isTuple ? "additionalItems" : "items";
    const rest = (isTuple ? schema.additionalItems : schema.items) ?? (prefix.length === 0 || undefined);
    const { min, max } = countOf(schema, "minItems", "maxItems", pointer);
    if (schema.uniqueItems === true && max > 1) {
      refuse(`${pointer}/uniqueItems`, "that items differ cannot be enforced; leave it out and check the value");
    }
    const itemName = isTuple ? "items" : "prefixItems";
    const listed = prefix.map((item, i) => this.#schema(item, `${pointer}/${itemName}/${i}`, depth + 1));
    // Items behind the listed ones are written where the schema says what they are.
    const behind = rest === undefined && min > listed.length ? true : (rest ?? false);
    const further =
      behind === false ? undefined : this.#rules.add(this.#schema(behind, `${pointer}/${restName}`, depth + 1));
    return arrayExpression({ listed, further, min, max });
  }

  #string(schema: SchemaObject, pointer: string): NativeExpression {
    const { min, max } = countOf(schema, "minLength", "maxLength", pointer);
    const patterns = patternsOf(schema).map((source) => {
      if (typeof source !== "string") return refuse(`${pointer}/pattern`, "a pattern is a string");
      return located(`${pointer}/pattern`, () => parsePattern(source));
    });
    const hasPattern = patterns.length > 0;
    for (const format of formatsOf(schema)) {
      const pattern = formatPattern(format);
      // Libraries write formats of their own beside the pattern that says what they mean.
      if (pattern === undefined && hasPattern) continue;
      if (pattern === undefined) {
        return refuse(`${pointer}/format`, `"${format}" is not enforced; supported are ${formatNames.join(", ")}`);
      }
      patterns.push(pattern);
    }
    const bounds = { minLength: min, patterns, ...(max !== Number.POSITIVE_INFINITY && { maxLength: max }) };
    return located(pointer, () => stringExpression(bounds, this.#rules));
  }

  #number(isInteger: boolean, schema: SchemaObject, pointer: string): NativeExpression {
    const bound = (keyword: string) => {
      const value = schema[keyword];
      if (value === undefined) return undefined;
      if (typeof value === "number" && Number.isFinite(value)) return value;
      return refuse(`${pointer}/${keyword}`, `it must be a number, got ${JSON.stringify(value)}`);
    };
    const multipleOf = bound("multipleOf");
    if (multipleOf !== undefined && !(Number.isSafeInteger(multipleOf) && multipleOf > 0)) {
      refuse(`${pointer}/multipleOf`, `only whole numbers are supported, got ${multipleOf}`);
    }
    const bounds = {
      isInteger,
      minimum: bound("minimum"),
      maximum: bound("maximum"),
      exclusiveMinimum: bound("exclusiveMinimum"),
      exclusiveMaximum: bound("exclusiveMaximum"),
      multipleOf: multipleOf === 1 && isInteger ? undefined : multipleOf,
    };
    return located(pointer, () => this.#rules.add(numberExpression(bounds, this.#rules)));
  }

  /** Any JSON value with at most `depth` levels of arrays and objects. */
  #anyValue(depth: number): NativeExpression {
    const known = this.#anyValues[depth];
    if (known) return known;
    const { rule, define } = this.#rules.reserve();
    this.#anyValues[depth] = rule;
    const kinds = [
      this.#rules.add(stringExpression({ patterns: [] }, this.#rules)),
      this.#rules.add(numberExpression({ isInteger: false }, this.#rules)),
      ...["true", "false", "null"].map(text),
    ];
    if (depth > 0) {
      const inner = this.#anyValue(depth - 1);
      const list = optional(sequence(inner, repeat(sequence(comma, inner), 0)));
      kinds.push(sequence(text("["), list, text("]")));
      const further = { key: anyKey, value: inner, min: 0, max: Number.POSITIVE_INFINITY };
      kinds.push(objectExpression({ properties: [], further }, this.#rules));
    }
    define(choice(...kinds));
    return rule;
  }
}

/** As JSON Schema's validators read a pattern: with the flag u where it is valid so. */
function parsePattern(source: string) {
  try {
    return parseRegex(source, { flags: "u", match: "search", bmpOnly: true });
  } catch (error) {
    try {
      new RegExp(source, "u");
    } catch {
      return parseRegex(source, { flags: "", match: "search", bmpOnly: true });
    }
    throw error;
  }
}

/** Says where what `body` throws lies. */
function located<T>(pointer: string, body: () => T): T {
  try {
    return body();
  } catch (error) {
    if (DeftreeError.isInstance(error) && !error.message.startsWith("The JSON Schema")) refuse(pointer, error.message);
    throw error;
  }
}
