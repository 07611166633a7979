import { createInterface } from "node:readline/promises";
import { ChatDeftree } from "@deftree/langchain";
import { AIMessage, type BaseMessage, HumanMessage, SystemMessage } from "@langchain/core/messages";
import type { Command } from "commander";
import { addModelOptions, engineOptions, integer, type ModelFlags, number } from "../options.js";
import { formatCount, Output } from "../output.js";

interface ChatFlags extends ModelFlags {
  system?: string;
  maxTokens: number;
  temperature: number;
  seed?: number;
  signal: AbortSignal;
}

interface Reply {
  text: string;
  inputTokens: number;
  reusedTokens: number;
  outputTokens: number;
  seconds: number;
}

export function addChatCommand(program: Command): void {
  addModelOptions(program.command("chat"))
    .description("talk with a model; with a prompt as argument, answer it and end")
    .argument("[prompt]", "what to ask; without it a conversation starts (or standard input is read)")
    .option("--system <text>", "system message")
    .option("--max-tokens <n>", "most tokens of an answer", integer(1), 512)
    .option("--temperature <t>", "0 is greedy", number(0), 0)
    .option("--seed <n>", "seed of the sampling", integer(0))
    .action(chat);
}

async function chat(prompt: string | undefined, flags: ChatFlags): Promise<void> {
  const output = new Output(flags.json);
  await using model = new ChatDeftree({
    ...engineOptions(flags),
    model: flags.model,
    maxTokens: flags.maxTokens,
    temperature: flags.temperature,
    seed: flags.seed,
  });
  const { info } = await model.engine();
  output.progress(`${info.modelName} on ${info.description} (${info.deviceReason})`);

  const conversation: BaseMessage[] = flags.system ? [new SystemMessage(flags.system)] : [];
  if (prompt !== undefined) {
    await answer(model, conversation, prompt, flags.signal, output);
    return;
  }
  const interactive = process.stdin.isTTY === true;
  const lines = createInterface({
    input: process.stdin,
    output: interactive ? process.stderr : undefined,
    prompt: "> ",
  });
  // Ctrl-C at the prompt ends the conversation; while an answer runs it ends the answer.
  let running: AbortController | undefined;
  const stop = () => (running ? running.abort() : lines.close());
  lines.on("SIGINT", stop);
  flags.signal.addEventListener("abort", stop);
  if (interactive) lines.prompt();
  for await (const line of lines) {
    if (line.trim() !== "") {
      running = new AbortController();
      await answer(model, conversation, line, running.signal, output);
      running = undefined;
    }
    if (flags.signal.aborted) break;
    if (interactive) lines.prompt();
  }
}

async function answer(
  model: ChatDeftree,
  conversation: BaseMessage[],
  prompt: string,
  signal: AbortSignal,
  output: Output,
): Promise<void> {
  conversation.push(new HumanMessage(prompt));
  const started = performance.now();
  const reply: Reply = { text: "", inputTokens: 0, reusedTokens: 0, outputTokens: 0, seconds: 0 };
  try {
    for await (const chunk of await model.stream(conversation, { signal })) {
      const text = typeof chunk.content === "string" ? chunk.content : "";
      reply.text += text;
      if (!output.json) process.stdout.write(text);
      if (chunk.usage_metadata) {
        reply.inputTokens = chunk.usage_metadata.input_tokens;
        reply.outputTokens = chunk.usage_metadata.output_tokens;
        reply.reusedTokens = chunk.usage_metadata.input_token_details?.cache_read ?? 0;
      }
    }
  } catch (error) {
    if (!signal.aborted) throw error;
    output.progress("\n(stopped)");
  }
  conversation.push(new AIMessage(reply.text));
  reply.seconds = (performance.now() - started) / 1000;
  output.line();
  output.progress(
    `${formatCount(reply.inputTokens)} prompt tokens, ${formatCount(reply.reusedTokens)} of them reused; ` +
      `${formatCount(reply.outputTokens)} generated; ${reply.seconds.toFixed(1)} s`,
  );
  output.result({ command: "chat", prompt, ...reply });
}
