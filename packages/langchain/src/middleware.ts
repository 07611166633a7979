import type { Problem, SearchResult, ThoughtModel } from "@deftree/search";
import type { BaseChatModel } from "@langchain/core/language_models/chat_models";
import { AIMessage, type BaseMessage, HumanMessage } from "@langchain/core/messages";
import { pushMessage } from "@langchain/langgraph";
import { type AgentMiddleware, createMiddleware, type ModelRequest } from "langchain";
import { ChatDeftree } from "./chat-deftree.js";
import { type GraphSearchFields, searchInGraph, thoughtsTransformer } from "./graph-search.js";
import { type ReasoningState, reasoningProblem, reasoningSettings } from "./reasoning-problem.js";

export interface TreeOfThoughtsMiddlewareFields<State, Answer> extends GraphSearchFields<BaseMessage[], State, Answer> {
  /**
   * What to think about before a call of the agent's model; undefined where there is nothing to search for. By default notes
   * on the conversation, which a model values: {@link reasoningProblem}.
   */
  problem?: (request: ModelRequest) => Problem<State, Answer> | undefined | Promise<Problem<State, Answer> | undefined>;
  /** What thinks; the agent's own model by default. */
  model?: BaseChatModel | ThoughtModel;
  /**
   * `"answer"` (default): when the agent is about to answer. With tools that is known once its model was asked and called
   * none; what it wrote is hidden and dropped. `"tool"`: each time that the model may choose a tool, before it does.
   */
  before?: "answer" | "tool";
  /**
   * `"notes"` (default): the model reads the best text found, in a last message that does not stay, and goes on from there.
   * `"answer"`: the text is the agent's answer, and the model is not asked for another, unless the agent has a
   * `responseFormat`, which the model then fills with the notes before it.
   */
  resultAs?: "notes" | "answer";
  /** The text of a result; by default what the model wrote on the best path. */
  toText?: (result: SearchResult<State, Answer>) => string;
}

type ThoughtsTransformer<State, Answer> = typeof thoughtsTransformer<State, Answer>;

/**
 * Lets an agent think by tree search before it answers, or before it chooses a tool.
 *
 * ```ts
 * const agent = createAgent({
 *   model: new ChatDeftree(),
 *   tools: [],
 *   middleware: [
 *     treeOfThoughtsMiddleware({
 *       problem: ({ messages }) => problemIn(messages.at(-1)!.text),
 *       strategy: breadthFirst({ grow: "continue", width: 8, depth: 16 }),
 *       resultAs: "answer",
 *     }),
 *   ],
 * });
 * const run = await agent.streamEvents({ messages }, { version: "v3" });
 * for await (const event of run.extensions.thoughts) console.log(event.type);
 * ```
 *
 * The agent's messages show nothing of the search: neither its thoughts nor the calls that they make. They stand in
 * `run.extensions.thoughts`, in the stream mode `custom` as `{ name: "thoughts", payload }`, and in traces. With a
 * checkpointer, an agent that was cut off while it thought goes on with the thoughts that it had.
 *
 * @throws RangeError when a result is to be an answer where it cannot be one: before a tool is chosen, or without a problem.
 */
export function treeOfThoughtsMiddleware<State = ReasoningState, Answer = string>(
  fields: TreeOfThoughtsMiddlewareFields<State, Answer> = {},
): AgentMiddleware<undefined, undefined, unknown, readonly [], readonly [ThoughtsTransformer<State, Answer>]> {
  const { model, before = "answer", resultAs = "notes", toText = textOf, ...others } = fields;
  // Where no problem is given, its types are those of this one.
  const { problem: problemOf = notesOn as NonNullable<typeof fields.problem>, ...settings } = others;
  if (resultAs === "answer" && (before === "tool" || fields.problem === undefined)) {
    throw new RangeError(
      before === "tool"
        ? `resultAs "answer" leaves no choice of a tool: take "notes", or before "answer"`
        : `resultAs "answer" needs a problem whose result is one; without a problem, there are notes`,
    );
  }
  return createMiddleware({
    name: "treeOfThoughts",
    streamTransformers: [thoughtsTransformer<State, Answer>],
    wrapModelCall: async (request, handler) => {
      const mayCallTools = request.tools.length > 0 && request.toolChoice !== "none";
      const problem = before === "tool" && !mayCallTools ? undefined : await problemOf(request);
      if (problem === undefined) return handler(request);
      if (before === "answer" && mayCallTools) {
        // Without a response format: a draft that does not meet it would be answered for.
        const responseFormat = null as unknown as undefined;
        const draft = await handler({ ...request, model: hidden(request.model), responseFormat });
        if (draft.tool_calls?.length) return shown(draft);
      }
      const { messages, runtime } = request;
      const thinker = model ?? (await chatModelOf(request.model));
      const { signal, writer, configurable } = runtime;
      const search = fields.problem ? settings : { ...reasoningSettings(thinker instanceof ChatDeftree), ...settings };
      const result = await searchInGraph(search, thinker, problem, messages, { signal, writer, configurable });
      if (result.best === undefined) return handler(request);
      if (resultAs === "answer" && request.responseFormat === undefined) return shown(answerOf(result, toText(result)));
      return handler({ ...request, messages: [...messages, new HumanMessage(notes(toText(result)))] });
    },
  });
}

function notesOn({ messages, systemMessage, tools }: ModelRequest): Problem<ReasoningState, string> {
  return reasoningProblem(systemMessage.text === "" ? messages : [systemMessage, ...messages], { tools });
}

/** A model whose messages are not streamed to the agent's user. */
function hidden(model: ModelRequest["model"]): ModelRequest["model"] {
  return (model as BaseChatModel).withConfig({ tags: ["nostream"] }) as ModelRequest["model"];
}

/** Puts a message that no visible call has streamed into the agent's streams. The agent adds it to its state. */
function shown(message: AIMessage): AIMessage {
  message.id ??= crypto.randomUUID();
  // A run's id is what content-block streams find the parts of a message by.
  pushMessage(message, { stateKey: null, metadata: { run_id: message.id } });
  return message;
}

/** The chat model itself, below what it was bound to or configured with. */
async function chatModelOf(model: unknown): Promise<BaseChatModel> {
  const { bound, _getModelInstance: instance } = model as {
    bound?: unknown;
    _getModelInstance?: () => Promise<BaseChatModel>;
  };
  if (bound !== undefined) return chatModelOf(bound);
  return instance === undefined ? (model as BaseChatModel) : instance.call(model);
}

function textOf({ text = "" }: SearchResult<unknown, unknown>): string {
  return text;
}

function notes(text: string): string {
  return `Notes from thinking this through, which only you see. Use them where they help:\n${text}`;
}

/** With the whole search's tokens as its usage. */
function answerOf({ statistics }: SearchResult<unknown, unknown>, content: string): AIMessage {
  const { promptTokens: input_tokens, generatedTokens: output_tokens, reusedTokens: cache_read } = statistics;
  const usage_metadata = {
    ...{ input_tokens, output_tokens, total_tokens: input_tokens + output_tokens },
    input_token_details: { cache_read },
  };
  return new AIMessage({ content, usage_metadata, response_metadata: { search: statistics } });
}
