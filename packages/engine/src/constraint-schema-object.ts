/** What a schema says of an object's properties. */
import { nothing } from "./constraint-grammar.js";
import { anyKey, keyOtherThan, type ObjectMembers } from "./constraint-object.js";
import { isSchema, refuse, type SchemaObject } from "./constraint-schema-merge.js";
import { countOf, listOf, valuesOf } from "./constraint-schema-types.js";
import type { NativeExpression } from "./native-addon.js";

/** How the schemas inside of it are compiled. */
interface Compile {
  value(schema: unknown, pointer: string): NativeExpression;
  /** A JSON string of a schema without references and `allOf`. */
  string(schema: SchemaObject, pointer: string): NativeExpression;
  flatten(schema: unknown, pointer: string): SchemaObject;
}

/** @throws DeftreeError E_BAD_ARGUMENT for what cannot be enforced. */
export function objectMembers(schema: SchemaObject, pointer: string, compile: Compile): ObjectMembers {
  const declared = (schema.properties ?? {}) as SchemaObject;
  if (!isSchema(declared)) refuse(`${pointer}/properties`, "properties are an object of schemas");
  if (Object.keys((schema.patternProperties ?? {}) as object).length > 0) {
    refuse(`${pointer}/patternProperties`, '"patternProperties" is not supported; use additionalProperties');
  }
  const isClosed = schema.unevaluatedProperties === false;
  if (schema.unevaluatedProperties !== undefined && !isClosed) {
    refuse(`${pointer}/unevaluatedProperties`, '"unevaluatedProperties" is supported as false only');
  }
  const required = listOf(schema.required ?? [], `${pointer}/required`) as string[];
  const keys = furtherKeys(schema, Object.keys(declared), required, pointer, compile);
  const names = [...new Set([...Object.keys(declared), ...(keys.names ?? []), ...required])];
  const additional = schema.additionalProperties ?? !isClosed;
  let known: NativeExpression | undefined;
  const additionalValue = () => {
    known ??= compile.value(additional, `${pointer}/additionalProperties`);
    return known;
  };
  const properties = names.map((name) => ({
    name,
    value: Object.hasOwn(declared, name)
      ? compile.value(declared[name], `${pointer}/properties/${name.replaceAll("~", "~0").replaceAll("/", "~1")}`)
      : additionalValue(),
    isRequired: required.includes(name),
  }));
  // Only what is declared is written, unless the schema asks for more, or declares nothing.
  const asksForMore = schema.additionalProperties !== undefined || schema.properties === undefined;
  const key = asksForMore && additional !== false ? keys.key : undefined;
  const further = numFurther(schema, properties, key !== undefined, pointer);
  if (!further) return { properties: [{ name: "", value: nothing, isRequired: true }] };
  return { properties, ...(key && { further: { key, value: additionalValue(), ...further } }) };
}

/** How many further properties there may be; undefined when the required ones are too many already. */
function numFurther(
  schema: SchemaObject,
  properties: ObjectMembers["properties"],
  canBeMore: boolean,
  pointer: string,
): { min: number; max: number } | undefined {
  const { min, max } = countOf(schema, "minProperties", "maxProperties", pointer);
  const numRequired = properties.filter(({ isRequired }) => isRequired).length;
  // Keys may repeat, and then count once.
  if (min > numRequired && !(canBeMore && properties.length === 0 && min === 1)) {
    const reason = `${min} properties are wanted and ${numRequired} are required; require as many`;
    refuse(`${pointer}/minProperties`, reason);
  }
  if (max < properties.length && properties.length > numRequired) {
    refuse(`${pointer}/maxProperties`, "it is supported where all declared properties fit, or all are required");
  }
  return max < numRequired ? undefined : { min: min > numRequired ? 1 : 0, max: max - properties.length };
}

/** Further keys, or their names when they are listed. */
function furtherKeys(
  { propertyNames }: SchemaObject,
  declared: readonly string[],
  required: readonly string[],
  pointer: string,
  compile: Compile,
): { key?: NativeExpression; names?: string[] } {
  const taken = [...new Set([...declared, ...required])];
  if (propertyNames === undefined || propertyNames === true) {
    return { key: taken.length === 0 ? anyKey : keyOtherThan(taken) };
  }
  const place = `${pointer}/propertyNames`;
  const names = compile.flatten(propertyNames, place);
  const listed = valuesOf(names);
  if (listed) {
    if (taken.some((name) => !listed.includes(name))) {
      return refuse(place, "a property is declared or required whose name it does not allow");
    }
    return { names: listed.filter((name) => typeof name === "string") };
  }
  if (taken.length > 0) return refuse(place, "it is supported beside no other property");
  return { key: compile.string(names, place) };
}
