import { Engine, type EngineOptions } from "@deftree/engine";
import { ChatDeftree } from "@deftree/langchain";
import { describeMachine, type MachineInfo, mean, median } from "./machine.js";

/**
 * Agents that are asked at the same moment, with one system prompt and a question each: how much of their prompts is
 * computed, and how long the first and the last of them wait for a first token. Each round has a system prompt of its own,
 * so nothing of it is in the forest before.
 */
interface AgentsBenchOptions {
  model: string;
  engine?: EngineOptions;
  agents: number;
  /** Of the system prompt, at least. */
  promptTokens: number;
  maxTokens: number;
  rounds: number;
  /** Ends the run after the round at hand. */
  signal?: AbortSignal;
  onRound?(round: AgentsRound): void;
}

interface AgentsRound {
  /** Of one agent's whole prompt, the mean. */
  promptTokens: number;
  /** Of all agents' prompts, those that were computed: what they have in common counts once. */
  computedTokens: number;
  /** From the call to the first text, of the agent that was first, and of the one that was last. */
  firstMs: number;
  lastMs: number;
}

interface AgentsBenchResult {
  benchmark: "agents";
  machine: MachineInfo;
  device: string;
  model: string;
  agents: number;
  interrupted: boolean;
  rounds: AgentsRound[];
  /** Median over the rounds of lastMs / firstMs. */
  lastOverFirst: number;
}

/** @throws what Engine.load and the model's calls throw. */
export async function benchAgents(options: AgentsBenchOptions): Promise<AgentsBenchResult> {
  const { agents, promptTokens, maxTokens, signal } = options;
  await using engine = await Engine.load(options.model, { ...options.engine, signal });
  const model = new ChatDeftree({ engine, maxTokens, temperature: 1 });
  const rounds: AgentsRound[] = [];
  while (rounds.length < options.rounds && !signal?.aborted) {
    const system = systemPrompt(engine, promptTokens, rounds.length);
    const before = engine.stats().prefilledTokens;
    const asked = await Promise.all(
      Array.from({ length: agents }, (_, agent) => askAgent(model, system, `You are agent ${agent}. Input: [3, 1, 2]`)),
    );
    const waits = asked.map(({ waitedMs }) => waitedMs);
    const round: AgentsRound = {
      promptTokens: mean(asked.map((agent) => agent.promptTokens)),
      computedTokens: engine.stats().prefilledTokens - before,
      firstMs: Math.min(...waits),
      lastMs: Math.max(...waits),
    };
    rounds.push(round);
    options.onRound?.(round);
  }
  const { description, modelName } = engine.info;
  return {
    benchmark: "agents",
    machine: describeMachine(),
    device: description,
    model: modelName,
    ...{ agents, interrupted: signal?.aborted ?? false, rounds },
    lastOverFirst: median(rounds.map(({ firstMs, lastMs }) => lastMs / firstMs)),
  };
}

async function askAgent(model: ChatDeftree, system: string, question: string) {
  const start = performance.now();
  let waitedMs: number | undefined;
  let promptTokens = 0;
  for await (const { usage_metadata } of await model.stream([
    { role: "system", content: system },
    { role: "user", content: question },
  ])) {
    waitedMs ??= performance.now() - start;
    promptTokens = usage_metadata?.input_tokens ?? promptTokens;
  }
  return { waitedMs: waitedMs ?? performance.now() - start, promptTokens };
}

function systemPrompt({ tokenizer }: Engine, promptTokens: number, round: number): string {
  let text = `Handbook ${round}.`;
  for (let rule = 1; tokenizer.encode(text).length < promptTokens; rule++)
    text += `\nRule ${rule}: keep every repetition.`;
  return text;
}
