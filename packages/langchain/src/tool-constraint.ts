/** Tool calls as a language: what a forced `tool_choice` keeps the answer to. */
import type { Constraint } from "@deftree/engine";
import type { ToolDefinition } from "@langchain/core/language_models/base";
import { isRecord } from "./json-text.js";
import { isEnforceable } from "./response-format.js";
import type { ToolRequest } from "./tool-prompt.js";

/**
 * One call, written as the prompt asks for it; nothing where the model may answer without a call. A tool with
 * `strict: false` whose schema cannot be enforced is called with any object.
 */
export function toolConstraint(tools: readonly ToolDefinition[], request: ToolRequest): Constraint | undefined {
  if (request === "auto" || request === "none") return undefined;
  const callable = request === "any" ? tools : tools.filter((tool) => tool.function.name === request);
  return { jsonSchema: { anyOf: callable.map(callSchema) } };
}

function callSchema({ function: { name, parameters, strict } }: StrictTool, index: number): object {
  const isEnforced = isRecord(parameters) && (strict !== false || isEnforceable(parameters));
  return {
    type: "object",
    properties: {
      name: { const: name },
      parameters: isEnforced ? moved(parameters, `#/anyOf/${index}/properties/parameters`) : { type: "object" },
    },
    required: ["name", "parameters"],
    additionalProperties: false,
  };
}

interface StrictTool {
  function: ToolDefinition["function"] & { strict?: boolean };
}

/** A schema whose references to itself lead to its new place. */
function moved(schema: object, place: string): object {
  return JSON.parse(JSON.stringify(schema), (key, value: unknown) =>
    key === "$ref" && typeof value === "string" && value.startsWith("#") ? place + value.slice(1) : value,
  );
}
