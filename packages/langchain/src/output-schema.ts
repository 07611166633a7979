/** Schemas of structured output, of whatever library, as one thing: a JSON Schema to show the model, and a check. */
import { DeftreeError } from "@deftree/engine";
import { toJsonSchema, Validator } from "@langchain/core/utils/json_schema";
import { isSerializableSchema, isStandardSchema } from "@langchain/core/utils/standard_schema";
import { interopSafeParseAsync, isInteropZodSchema } from "@langchain/core/utils/types";
import { isRecord } from "./json-text.js";

/** What a check found: the value as the schema's library gives it (with defaults, transforms), or what is wrong. */
type Checked = { value: unknown } | { problem: string };

export interface OutputSchema {
  name: string;
  description?: string;
  json: Record<string, unknown>;
  check(value: unknown): Promise<Checked>;
}

/**
 * @param schema Zod 3 or 4, any Standard Schema that can say itself as JSON Schema, a JSON Schema, or an OpenAI function
 *   `{ name, description, parameters }`.
 * @throws DeftreeError E_BAD_ARGUMENT for anything else.
 */
export function readOutputSchema(schema: unknown, name?: string): OutputSchema {
  if (isInteropZodSchema(schema)) {
    return describe(jsonSchemaOf(schema), name, async (value) => {
      const parsed = await interopSafeParseAsync(schema, value);
      return parsed.success ? { value: parsed.data } : { problem: problemOf(parsed.error.issues) };
    });
  }
  if (isSerializableSchema(schema)) {
    return describe(toJsonSchema(schema), name, async (value) => {
      const parsed = await schema["~standard"].validate(value);
      return parsed.issues ? { problem: problemOf(parsed.issues) } : { value: parsed.value };
    });
  }
  if (!isRecord(schema) || isStandardSchema(schema)) {
    throw new DeftreeError(
      "E_BAD_ARGUMENT",
      "Structured output takes a Zod schema, a Standard Schema with a JSON Schema, or a JSON Schema",
    );
  }
  if (typeof schema.name === "string" && isRecord(schema.parameters)) {
    const { description = schema.parameters.description, parameters } = schema;
    return describe({ ...parameters, description }, name ?? schema.name, jsonSchemaCheck(parameters));
  }
  return describe(schema, name, jsonSchemaCheck(schema));
}

/** @throws Error for what JSON Schema cannot say. */
export function jsonSchemaOf(schema: Parameters<typeof toJsonSchema>[0]): object {
  try {
    return toJsonSchema(schema);
  } catch (error) {
    // LangChain walks a Zod schema before it asks Zod, and one that refers to itself has no end.
    if (error instanceof RangeError && isSerializableSchema(schema)) {
      return schema["~standard"].jsonSchema.input({ target: "draft-2020-12" });
    }
    throw error;
  }
}

function describe(schema: object, name: string | undefined, check: OutputSchema["check"]): OutputSchema {
  const json = schema as Record<string, unknown>;
  const title = typeof json.title === "string" && /^[\w-]{1,64}$/.test(json.title) ? json.title : undefined;
  const description = typeof json.description === "string" ? json.description : undefined;
  return { name: name ?? title ?? "extract", description, json, check };
}

function jsonSchemaCheck(schema: Record<string, unknown>): OutputSchema["check"] {
  const validator = new Validator(schema, draftOf(schema), false);
  const validate = (value: unknown) => {
    try {
      return validator.validate(value);
    } catch (cause) {
      const reason = String((cause as Error).message).split("\n")[0];
      throw new DeftreeError("E_BAD_ARGUMENT", `The JSON Schema cannot be checked: ${reason}`, { cause });
    }
  };
  return async (value) => {
    const { valid, errors } = validate(value);
    if (valid) return { value };
    // Each level repeats that something below it is wrong; the deepest says what.
    const depth = ({ instanceLocation }: { instanceLocation: string }) => instanceLocation.split("/").length;
    const deepest = Math.max(...errors.map(depth));
    const causes = errors.filter((error) => depth(error) === deepest);
    return {
      problem: causes.map(({ instanceLocation, error }) => `${instanceLocation.slice(1)}: ${error}`).join("; "),
    };
  };
}

function draftOf({ $schema }: Record<string, unknown>): "4" | "7" | "2019-09" | "2020-12" {
  const named = /draft-0([467])|2019-09/.exec(String($schema));
  if (named === null) return "2020-12";
  if (named[1] === undefined) return "2019-09";
  return named[1] === "4" ? "4" : "7";
}

interface Issue {
  message: string;
  path?: readonly unknown[];
}

function problemOf(issues: readonly Issue[]): string {
  const keyOf = (part: unknown) => String(isRecord(part) ? part.key : part);
  return issues.map(({ path = [], message }) => `/${path.map(keyOf).join("/")}: ${message}`).join("; ");
}
