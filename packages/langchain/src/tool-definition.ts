import { DeftreeError } from "@deftree/engine";
import type { ToolDefinition } from "@langchain/core/language_models/base";
import type { BindToolsInput } from "@langchain/core/language_models/chat_models";
import { isLangChainTool } from "@langchain/core/utils/function_calling";
import { isRecord } from "./json-text.js";
import { jsonSchemaOf } from "./output-schema.js";

/**
 * A LangChain tool, its parameters alone, a Runnable as tool, or a plain definition in OpenAI's (`function`) or Anthropic's
 * (`input_schema`) shape.
 * @throws DeftreeError E_BAD_ARGUMENT for anything else.
 */
export function toToolDefinition(tool: BindToolsInput): ToolDefinition {
  if (isLangChainTool(tool)) {
    const { name, description, schema } = tool;
    return { type: "function", function: { name, description, parameters: jsonSchemaOf(schema) } };
  }
  if (isRecord(tool) && isRecord(tool.function) && typeof tool.function.name === "string") {
    return tool as object as ToolDefinition;
  }
  if (isRecord(tool) && typeof tool.name === "string" && isRecord(tool.input_schema)) {
    const { name, description, input_schema: parameters } = tool;
    return { type: "function", function: { name, description: description as string | undefined, parameters } };
  }
  throw new DeftreeError(
    "E_BAD_ARGUMENT",
    `A tool is a LangChain tool or { type: "function", function: { name, parameters } }; got ${JSON.stringify(tool)?.slice(0, 200)}`,
  );
}
