/** JSON Schemas as sets of keywords: which are understood, and what two schemas for one value say together. */
import { DeftreeError } from "./errors.js";

export type JsonSchema = boolean | SchemaObject;
export type SchemaObject = { readonly [keyword: string]: unknown };

/** Keywords by the type of the values that they speak of. */
export const keywordsOf = {
  string: ["minLength", "maxLength", "pattern", "format"],
  number: ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"],
  array: ["items", "prefixItems", "additionalItems", "minItems", "maxItems", "uniqueItems"],
  object: [
    ...["properties", "required", "additionalProperties", "propertyNames", "minProperties", "maxProperties"],
    ...["patternProperties", "unevaluatedProperties"],
  ],
} as const;

const combining = new Set(["$ref", "allOf", "anyOf", "oneOf", "enum", "const", "type"]);
const asserting = new Set<string>([...Object.values(keywordsOf).flat(), ...combining]);
const annotations = new Set([
  ...["title", "description", "default", "examples", "example", "deprecated", "readOnly", "writeOnly", "$comment"],
  ...["$schema", "$id", "id", "$defs", "definitions", "$anchor", "contentEncoding", "contentMediaType"],
]);

/** @throws DeftreeError E_BAD_ARGUMENT that names the place and the reason. */
export function refuse(pointer: string, reason: string): never {
  throw new DeftreeError("E_BAD_ARGUMENT", `The JSON Schema cannot be enforced: ${pointer || "/"}: ${reason}`);
}

export function isSchema(value: unknown): value is JsonSchema {
  return typeof value === "boolean" || (typeof value === "object" && value !== null && !Array.isArray(value));
}

/** The keywords of a schema that say something about values. @throws DeftreeError E_BAD_ARGUMENT for unknown ones. */
export function assertionsOf(schema: SchemaObject, pointer: string): SchemaObject {
  const kept: [string, unknown][] = [];
  for (const [keyword, value] of Object.entries(schema)) {
    if (value === undefined || annotations.has(keyword) || keyword.startsWith("x-")) continue;
    if (!asserting.has(keyword)) refuse(`${pointer}/${keyword}`, `the keyword "${keyword}" is not supported`);
    kept.push([keyword, value]);
  }
  return Object.fromEntries(kept);
}

/** Patterns and formats that were merged: all of them hold. A user's schema has one of each. */
const allPatterns: unique symbol = Symbol("patterns");
const allFormats: unique symbol = Symbol("formats");
type Merged = SchemaObject & { readonly [allPatterns]?: string[]; readonly [allFormats]?: string[] };

export function patternsOf(schema: Merged): string[] {
  return schema[allPatterns] ?? (schema.pattern === undefined ? [] : [schema.pattern as string]);
}

export function formatsOf(schema: Merged): string[] {
  return schema[allFormats] ?? (schema.format === undefined ? [] : [schema.format as string]);
}

/**
 * A schema that holds of a value when both do.
 * @throws DeftreeError E_BAD_ARGUMENT for keywords that cannot be said as one.
 */
export function mergeSchemas(a: SchemaObject, b: SchemaObject, pointer: string): SchemaObject {
  const merged: Record<string | symbol, unknown> = { ...a, ...b };
  const both = <T>(keyword: string, combine: (x: T, y: T) => unknown) => {
    if (a[keyword] !== undefined && b[keyword] !== undefined) {
      merged[keyword] = combine(a[keyword] as T, b[keyword] as T);
    }
  };
  for (const keyword of ["minLength", "minItems", "minProperties", "minimum", "exclusiveMinimum"])
    both(keyword, larger);
  for (const keyword of ["maxLength", "maxItems", "maxProperties", "maximum", "exclusiveMaximum"]) {
    both(keyword, smaller);
  }
  both("type", commonTypes);
  both("required", (x: string[], y: string[]) => [...new Set([...x, ...y])]);
  both("multipleOf", (x: number, y: number) => leastCommonMultiple(x, y));
  both("uniqueItems", (x: boolean, y: boolean) => x || y);
  both("enum", (x: unknown[], y: unknown[]) => x.filter((value) => y.some((other) => isSame(value, other))));
  both("const", (x, y) => (isSame(x, y) ? x : refuse(pointer, "it asks for two different constants at once")));
  both("anyOf", bothBranches);
  both("oneOf", () => refuse(pointer, "two oneOf for one value are not supported"));
  for (const keyword of ["items", "prefixItems", "additionalItems", "patternProperties", "propertyNames"]) {
    both(keyword, (x, y) =>
      isSame(x, y) ? x : refuse(pointer, `two different "${keyword}" for one value are not supported`),
    );
  }
  merged[allPatterns] = [...new Set([...patternsOf(a), ...patternsOf(b)])];
  merged[allFormats] = [...new Set([...formatsOf(a), ...formatsOf(b)])];
  mergeProperties(a, b, merged);
  return merged as SchemaObject;
}

/** What a schema allows of a property that it does not name holds of those that only the other one names. */
function mergeProperties(a: SchemaObject, b: SchemaObject, merged: Record<string | symbol, unknown>): void {
  const names = new Set([a, b].flatMap(({ properties }) => Object.keys(properties ?? {})));
  if (names.size === 0 && (a.additionalProperties === undefined || b.additionalProperties === undefined)) return;
  const of = (schema: SchemaObject, name?: string): unknown => {
    const own = (schema.properties ?? {}) as SchemaObject;
    return (name !== undefined && Object.hasOwn(own, name) ? own[name] : undefined) ?? schema.additionalProperties;
  };
  const conjunction = (x: unknown, y: unknown) => (x === undefined ? y : y === undefined ? x : { allOf: [x, y] });
  if (names.size > 0) {
    const properties = [...names].map((name) => [name, conjunction(of(a, name), of(b, name)) ?? true]);
    merged.properties = Object.fromEntries(properties);
  }
  const additional = conjunction(a.additionalProperties, b.additionalProperties);
  const isClosed = a.additionalProperties === false || b.additionalProperties === false;
  if (additional !== undefined) merged.additionalProperties = isClosed ? false : additional;
}

const larger = (x: number, y: number) => Math.max(x, y);
const smaller = (x: number, y: number) => Math.min(x, y);

function commonTypes(x: string | string[], y: string | string[]): string[] {
  const [own, other] = [[x].flat(), [y].flat()];
  const common = own.filter((type) => other.includes(type) || (type === "integer" && other.includes("number")));
  if (own.includes("number") && !common.includes("number") && other.includes("integer")) common.push("integer");
  return [...new Set(common)];
}

function bothBranches(x: unknown[], y: unknown[]): unknown[] {
  return x.flatMap((one) => y.map((other) => ({ allOf: [one, other] })));
}

function leastCommonMultiple(x: number, y: number): number {
  let [a, b] = [x, y];
  while (b !== 0) [a, b] = [b, a % b];
  return (x / a) * y;
}

/** Equal as JSON, whatever the order of properties. */
export function isSame(x: unknown, y: unknown): boolean {
  return canonicalJson(x) === canonicalJson(y);
}

function canonicalJson(value: unknown): string {
  return JSON.stringify(value, (_, inner: unknown) =>
    typeof inner === "object" && inner !== null && !Array.isArray(inner)
      ? Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1)))
      : inner,
  );
}
