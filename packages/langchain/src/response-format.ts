/** What form an answer is to have: asked for in the system turn, and enforced while decoding. */
import { assertEnforceable, type Constraint, DeftreeError } from "@deftree/engine";

/** As in OpenAI's API, which LangChain's agents speak. */
export type ResponseFormat =
  | { type: "text" }
  | { type: "json_object" }
  | { type: "json_schema"; json_schema: { name?: string; schema: object; strict?: boolean } };

/** What the answer is kept to. With `strict: false` a schema that cannot be enforced is asked for only. */
export function responseConstraint(format: ResponseFormat | undefined): Constraint | undefined {
  if (format?.type === "json_object") return { jsonSchema: { type: "object" } };
  if (format?.type !== "json_schema") return undefined;
  const { schema, strict } = format.json_schema;
  return strict === false && !isEnforceable(schema) ? undefined : { jsonSchema: schema };
}

export function isEnforceable(jsonSchema: object): boolean {
  try {
    assertEnforceable({ jsonSchema });
    return true;
  } catch {
    return false;
  }
}

/** @throws DeftreeError E_BAD_ARGUMENT for another form. */
export function renderResponseFormat(format: ResponseFormat | undefined): string | undefined {
  switch (format?.type) {
    case undefined:
    case "text":
      return undefined;
    case "json_object":
      return "Answer with one JSON object and nothing else.";
    case "json_schema": {
      const schema = format.json_schema?.schema;
      if (schema !== undefined) {
        return `Answer with JSON and nothing else. It must match this JSON Schema:\n${JSON.stringify(schema)}`;
      }
    }
  }
  throw new DeftreeError(
    "E_BAD_ARGUMENT",
    `response_format is { type: "text" }, { type: "json_object" } or { type: "json_schema", json_schema: { schema } }; got ${JSON.stringify(format)}`,
  );
}
