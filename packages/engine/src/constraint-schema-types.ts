/** What a schema says of the types, values and counts that it allows. */
import {
  formatsOf,
  isSame,
  isSchema,
  keywordsOf,
  patternsOf,
  refuse,
  type SchemaObject,
} from "./constraint-schema-merge.js";

const jsonTypes = ["object", "array", "string", "number", "integer", "boolean", "null"];

export function valuesOf(schema: SchemaObject): unknown[] | undefined {
  if (schema.const !== undefined) return [schema.const];
  return Array.isArray(schema.enum) ? schema.enum : undefined;
}

/** The types that a schema allows; of one that does not say, those that its keywords are about. */
export function typesOf(schema: SchemaObject, pointer: string): string[] {
  const stated = valuesOf(schema)?.map(typeOf) ?? schema.type;
  if (stated !== undefined) {
    const types = [...new Set([stated].flat())] as string[];
    const unknown = types.find((type) => !jsonTypes.includes(type));
    if (unknown !== undefined) return refuse(`${pointer}/type`, `${JSON.stringify(unknown)} is no type`);
    return types;
  }
  const hasAny = (keywords: readonly string[]) => keywords.some((keyword) => schema[keyword] !== undefined);
  const meant = Object.entries(keywordsOf).flatMap(([type, keywords]) => (hasAny(keywords) ? [type] : []));
  if (patternsOf(schema).length + formatsOf(schema).length > 0 && !meant.includes("string")) meant.push("string");
  return meant.length > 0 ? meant : ["object", "array", "string", "number", "boolean", "null"];
}

function typeOf(value: unknown): string {
  if (value === null) return "null";
  return Array.isArray(value) ? "array" : typeof value;
}

export function isOfType(value: unknown, type: string): boolean {
  return typeOf(value) === type || (type === "integer" && Number.isInteger(value));
}

export function countOf(
  schema: SchemaObject,
  least: string,
  most: string,
  pointer: string,
): { min: number; max: number } {
  const count = (keyword: string, otherwise: number) => {
    const value = schema[keyword] ?? otherwise;
    if (value === otherwise || (Number.isSafeInteger(value) && (value as number) >= 0)) return value as number;
    return refuse(`${pointer}/${keyword}`, `it must be a count, got ${JSON.stringify(value)}`);
  };
  return { min: count(least, 0), max: count(most, Number.POSITIVE_INFINITY) };
}

export function listOf(value: unknown, pointer: string): unknown[] {
  return Array.isArray(value) ? value : refuse(pointer, "it must be a list");
}

/** oneOf is anyOf when no value can match two branches. @throws DeftreeError E_BAD_ARGUMENT */
export function checkDisjoint(branches: readonly SchemaObject[], pointer: string): void {
  for (const [i, a] of branches.entries()) {
    for (const [j, b] of branches.slice(0, i).entries()) {
      if (areDisjoint(a, b, pointer)) continue;
      refuse(
        pointer,
        `branches ${j} and ${i} may match the same value, which oneOf forbids; use anyOf, or tell them apart by a required property with different constants`,
      );
    }
  }
}

function areDisjoint(a: SchemaObject, b: SchemaObject, pointer: string): boolean {
  const [values, others] = [valuesOf(a), valuesOf(b)];
  if (values && others) return !values.some((value) => others.some((other) => isSame(value, other)));
  const [types, otherTypes] = [a, b].map((schema) =>
    typesOf(schema, pointer).map((type) => (type === "integer" ? "number" : type)),
  );
  if (!types!.some((type) => otherTypes!.includes(type))) return true;
  const tags = (schema: SchemaObject) =>
    Object.entries((schema.properties ?? {}) as Record<string, unknown>).flatMap(([name, property]) => {
      const isRequired = Array.isArray(schema.required) && schema.required.includes(name);
      const tag = isSchema(property) && typeof property === "object" && isRequired ? valuesOf(property) : undefined;
      return tag ? [{ name, tag }] : [];
    });
  const isObject = (list: string[]) => list.every((type) => type === "object");
  if (!isObject(types!) || !isObject(otherTypes!)) return false;
  return tags(a).some(({ name, tag }) =>
    tags(b).some((other) => other.name === name && !tag.some((value) => other.tag.some((each) => isSame(each, value)))),
  );
}
