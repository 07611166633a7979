/** Random JSON Schemas of all that a constraint enforces, and random regular expressions. */

export type RandomInteger = (below: number) => number;

/** The same for the same seed. */
export function randomIntegers(seed: number): RandomInteger {
  let state = (seed * 2654435761 + 1) >>> 0;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

const names = ["name", "age", 'the "key"', "a", "ab", "b\\c", "größe", "", "x/y~z"];
const patterns = ["^[A-Z][a-z]*$", "\\d{3}", "^a|b$", "^(foo|bar)+$", "^\\S+ \\S+$", "[^a-z]x?", "^.{2,4}$", '["\\\\]'];
const formats = ["date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid"];

export function randomSchema(random: RandomInteger): Record<string, unknown> {
  const schema = schemaOf(random, 3);
  return { ...schema, $defs: { list: linkedList, tree } };
}

const linkedList = {
  type: "object",
  properties: { value: { type: "integer", minimum: 0 }, next: { anyOf: [{ type: "null" }, { $ref: "#/$defs/list" }] } },
  required: ["value", "next"],
  additionalProperties: false,
};
const tree = { type: "array", items: { $ref: "#/$defs/tree" }, maxItems: 3 };

function schemaOf(random: RandomInteger, depth: number): Record<string, unknown> {
  const pick = <T>(list: readonly T[]): T => list[random(list.length)]!;
  const maybe = <T extends object>(value: T): T | Record<string, never> => (random(2) === 0 ? value : {});
  const below = () => schemaOf(random, depth - 1);
  const some = <T>(max: number, make: (i: number) => T): T[] =>
    Array.from({ length: 1 + random(max) }, (_, i) => make(i));
  const from = random(6);
  const kinds = [
    () => ({ type: "string", ...maybe({ minLength: from }), ...maybe({ maxLength: from + random(9) }) }),
    () => ({ type: "string", pattern: pick(patterns), ...maybe({ maxLength: 4 + random(20) }) }),
    () => ({ type: "string", format: pick(formats) }),
    () => ({
      type: "integer",
      ...maybe({ minimum: random(300) - 150 }),
      ...maybe({ exclusiveMaximum: 150 + random(2000) }),
    }),
    () => ({ type: "integer", multipleOf: 1 + random(30), ...maybe({ maximum: random(1000) }) }),
    () => ({ type: "number", exclusiveMinimum: (random(4000) - 2000) / 128, maximum: 16 + random(1000) / 7 }),
    () => ({ type: "number", ...maybe({ maximum: (random(2000) - 1000) / 64 }) }),
    () => ({ enum: [...new Set(some(4, () => pick([1, -0.5, "a", 'q"', null, true, [1, { a: [] }], { b: "\n" }])))] }),
    () => ({ const: pick([3, "ä\t", false, { x: 1, y: [2] }]) }),
    () => ({ type: [...new Set(some(3, () => pick(["string", "boolean", "null", "integer"])))] }),
    () => ({ $ref: pick(["#/$defs/list", "#/$defs/tree"]) }),
  ];
  const nested = [
    () => object(random, below, pick, maybe),
    () => object(random, below, pick, maybe),
    () => ({
      type: "object",
      additionalProperties: below(),
      ...maybe({ maxProperties: 1 + random(3) }),
      ...maybe({ minProperties: 1 }),
    }),
    () => ({ type: "object", propertyNames: { pattern: "^[a-c]{1,3}$" }, additionalProperties: below() }),
    () => ({ type: "array", items: below(), ...maybe({ minItems: random(3) }), maxItems: 2 + random(3) }),
    () => ({
      type: "array",
      prefixItems: some(3, below),
      items: pick([false, true, { type: "null" }]),
      ...maybe({ minItems: 1 + random(4) }),
    }),
    () => ({ anyOf: some(3, below) }),
    () => ({
      oneOf: some(3, (i) => ({
        type: "object",
        properties: { kind: { const: i }, value: below() },
        required: ["kind", "value"],
      })),
    }),
    () => ({ allOf: [object(random, below, pick, maybe), { type: "object", ...maybe({ required: ["age"] }) }] }),
  ];
  return depth === 0 ? pick(kinds)() : random(3) === 0 ? pick(kinds)() : pick(nested)();
}

function object(
  random: RandomInteger,
  below: () => object,
  pick: <T>(list: readonly T[]) => T,
  maybe: <T extends object>(value: T) => T | Record<string, never>,
): Record<string, unknown> {
  const own = names.filter(() => random(3) === 0);
  return {
    type: "object",
    description: "an annotation",
    properties: Object.fromEntries(own.map((name) => [name, below()])),
    required: own.filter(() => random(2) === 0),
    ...maybe({ additionalProperties: pick([false, true, { type: "boolean" }]) }),
  };
}

/** Of what a constraint takes; as a source for the flag u. */
export function randomRegex(random: RandomInteger, depth = 3): string {
  const pick = <T>(list: readonly T[]): T => list[random(list.length)]!;
  const atom = () =>
    pick(["a", "b", "é", "😀", "\\.", "\\d", "\\w", "\\s", ".", "[a-f]", "[^a-z\\s]", "\\p{Lu}", "\\P{L}", "\\n"]);
  if (depth === 0) return atom();
  const below = () => randomRegex(random, depth - 1);
  switch (random(6)) {
    case 0:
      return `(${below()}|${below()})`;
    case 1:
      return `(?:${below()})${pick(["*", "+", "?", "*?", "{2}", "{1,4}", "{3,}", "{0,40}"])}`;
    case 2:
    case 3:
      return below() + below();
    default:
      return atom();
  }
}
