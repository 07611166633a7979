/**
 * Structured output: the schema is shown to the model and enforced while it decodes; the answer is parsed and checked by the
 * schema's own library.
 */
import { assertEnforceable, DeftreeError } from "@deftree/engine";
import type { BaseLanguageModelInput, StructuredOutputMethodOptions } from "@langchain/core/language_models/base";
import type { BaseChatModel } from "@langchain/core/language_models/chat_models";
import { assembleStructuredOutputPipeline } from "@langchain/core/language_models/structured_output";
import type { AIMessage, BaseMessage } from "@langchain/core/messages";
import { OutputParserException } from "@langchain/core/output_parsers";
import { type Runnable, RunnableLambda } from "@langchain/core/runnables";
import type { ChatDeftreeCallOptions } from "./chat-options.js";
import { parseJson } from "./json-text.js";
import { type OutputSchema, readOutputSchema } from "./output-schema.js";

const methods = ["jsonSchema", "jsonMode", "functionCalling"] as const;
type Method = (typeof methods)[number];

type ChatModel = BaseChatModel<ChatDeftreeCallOptions>;
type ToolCallingModel = ChatModel & Required<Pick<ChatModel, "bindTools">>;

export function structuredOutput(
  chat: ToolCallingModel,
  schema: unknown,
  { name, method = "jsonSchema", includeRaw, strict }: StructuredOutputMethodOptions<boolean> = {},
): Runnable<BaseLanguageModelInput, Record<string, unknown>> {
  if (!isMethod(method)) {
    throw new DeftreeError(
      "E_BAD_ARGUMENT",
      `method ${JSON.stringify(method)} is unknown; valid are ${methods.join(", ")}`,
    );
  }
  const output = readOutputSchema(schema, name);
  if (strict !== false && method !== "jsonMode") checkEnforceable(output);
  const parser = RunnableLambda.from((message: BaseMessage) => readOutput(message as AIMessage, output, method));
  return assembleStructuredOutputPipeline(
    askFor(chat, output, method, strict),
    parser,
    includeRaw,
    includeRaw ? "StructuredOutputRunnable" : "StructuredOutput",
  ) as Runnable<BaseLanguageModelInput, Record<string, unknown>>;
}

/** @throws DeftreeError E_BAD_ARGUMENT */
function checkEnforceable({ json }: OutputSchema): void {
  try {
    assertEnforceable({ jsonSchema: json });
  } catch (cause) {
    const wayOut = "With `strict: false` it is shown to the model, and the answer is checked only.";
    throw new DeftreeError("E_BAD_ARGUMENT", `${(cause as Error).message}. ${wayOut}`, { cause });
  }
}

function askFor(
  chat: ToolCallingModel,
  { name, description, json }: OutputSchema,
  method: Method,
  strict: boolean | undefined,
) {
  const ls_structured_output_format = { kwargs: { method }, schema: json };
  switch (method) {
    case "jsonSchema": {
      const response_format = { type: "json_schema" as const, json_schema: { name, schema: json, strict } };
      return chat.withConfig({ response_format, ls_structured_output_format });
    }
    case "jsonMode":
      return chat.withConfig({ response_format: { type: "json_object" }, ls_structured_output_format });
    case "functionCalling": {
      const tool = { type: "function" as const, function: { name, description, parameters: json, strict } };
      return chat.bindTools([tool], { tool_choice: name, ls_structured_output_format });
    }
  }
}

/** @throws OutputParserException with the answer and what is wrong with it. */
async function readOutput(message: AIMessage, output: OutputSchema, method: Method): Promise<Record<string, unknown>> {
  const { text } = message;
  const fail = (problem: string, answer: string): never => {
    const cut = message.response_metadata.finish_reason === "length" ? " (it was cut at its most tokens)" : "";
    throw new OutputParserException(`${problem}${cut}. The answer was: ${answer}`, answer);
  };
  const call = message.tool_calls?.find(({ name }) => name === output.name);
  const value = method === "functionCalling" ? call?.args : parseJson(text);
  if (value === undefined) {
    const wanted = method === "functionCalling" ? `does not call the function "${output.name}"` : "is not JSON";
    return fail(`The model's answer ${wanted}`, text);
  }
  const checked = await output.check(value);
  if ("problem" in checked) {
    return fail(`The model's answer does not match the schema: ${checked.problem}`, JSON.stringify(value));
  }
  return checked.value as Record<string, unknown>;
}

function isMethod(method: string): method is Method {
  return (methods as readonly string[]).includes(method);
}
