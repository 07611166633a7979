/** What form an answer is to have. The form is asked for in the system turn; nothing forces the model to keep to it. */
import { DeftreeError } from "@deftree/engine";

/** As in OpenAI's API, which LangChain's agents speak. */
export type ResponseFormat =
  | { type: "text" }
  | { type: "json_object" }
  | { type: "json_schema"; json_schema: { name?: string; schema: object; strict?: boolean } };

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
