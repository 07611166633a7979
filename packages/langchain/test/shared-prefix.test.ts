/** What callers of one chat model share without doing anything, in the engine's own counters. */
import { Engine } from "@deftree/engine";
import { HumanMessage, SystemMessage } from "@langchain/core/messages";
import { createAgent } from "langchain";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { ChatDeftree } from "../src/index.js";
import { digits, sortPrompt } from "./sorting.js";

let engine: Engine;
let chat: ChatDeftree;

beforeAll(async () => {
  engine = await Engine.load("mini", { device: "cpu" });
  chat = new ChatDeftree({ engine, maxTokens: 48 });
});
afterEach(async () => {
  await engine.checkInvariants();
  expect(engine.stats().branches).toBe(0);
});
afterAll(() => engine.dispose());

/** Of about 1,000 tokens, and another one for each `name`, so that no test finds another's prefix. */
function systemPrompt(name: string): string {
  let text = `You are ${name}, who sorts lists of digits.`;
  for (let rule = 1; engine.tokenizer.encode(text).length < 985; rule++) text += ` Rule ${rule}: keep every digit.`;
  return text;
}

const tasks = Array.from({ length: 8 }, (_, i) => sortPrompt(digits(16, 40 + i)));

function promptTokens(system: string, task: string): number[] {
  const turns = [
    { role: "system" as const, content: system },
    { role: "user" as const, content: task },
  ];
  return engine.encodeChat(turns, { addGenerationPrompt: true });
}

/** How many tokens all prompts begin with, and those that they do not have in common. */
function shape(prompts: number[][]): { shared: number; differences: number } {
  const [first, ...others] = prompts;
  const differs = first!.findIndex((token, i) => others.some((other) => other[i] !== token));
  return { shared: differs, differences: prompts.reduce((sum, { length }) => sum + length - differs, 0) };
}

async function counted<T>(run: () => Promise<T>) {
  const before = engine.stats();
  const result = await run();
  const after = engine.stats();
  return {
    result,
    steps: after.steps - before.steps,
    prefilled: after.prefilledTokens - before.prefilledTokens,
    decoded: after.decodedTokens - before.decodedTokens,
  };
}

/**
 * The engine for `callers` that ask at the same time (or one, for many answers): none goes on from its prompt until all are there. A step of a model as
 * small as mini ends before the event loop has come to the next caller, so meanwhile the engine is given long steps, those
 * of a prompt of its own; `gatePrefill` says how many tokens these computed.
 */
function gathering(callers: number, gateTokens: number[]): { gathered: Engine; gatePrefill: Promise<number> } {
  let open = (_: number | Promise<number>) => {};
  const gatePrefill = new Promise<number>((resolve) => {
    open = resolve;
  });
  let release = () => {};
  const allAreHere = new Promise<void>((resolve) => {
    release = resolve;
  });
  const openGate = async () => {
    using gate = engine.branch();
    const { length, reusedTokens } = await gate.extend(gateTokens);
    return length - reusedTokens;
  };
  let here = 0;
  const gathered = new Proxy(engine, {
    get(target, name) {
      if (name !== "branch") {
        const member = Reflect.get(target, name, target);
        return typeof member === "function" ? member.bind(target) : member;
      }
      return () => {
        const branch = target.branch();
        const extend = branch.extend.bind(branch);
        branch.extend = async (...args: Parameters<typeof extend>) => {
          const result = await extend(...args);
          if (++here === callers) {
            open(openGate());
            release();
          }
          await allAreHere;
          return result;
        };
        return branch;
      };
    },
  });
  return { gathered, gatePrefill };
}

/** Steps that compute prompts, at most: one a chunk, and one more for each prompt that waits for another's. */
function prefillSteps(prefilled: number, prompts: number): number {
  return Math.ceil(prefilled / 256) + prompts;
}

describe("eight agents with one system prompt of 1,000 tokens", () => {
  it("compute it once, at once or one after another, and answer as one agent alone does", async () => {
    const system = systemPrompt("Ada");
    const prompts = tasks.map((task) => promptTokens(system, task));
    const { shared, differences } = shape(prompts);
    expect(shared).toBeGreaterThan(980);
    expect(shared).toBeLessThan(1040);
    const asker = (model: ChatDeftree) => {
      const agents = tasks.map(() => createAgent({ model, tools: [], systemPrompt: system }));
      return async (i: number) => {
        const { messages } = await agents[i]!.invoke({ messages: [new HumanMessage(tasks[i]!)] });
        return messages.at(-1)!.text;
      };
    };

    const ask = asker(chat);
    const atOnce = await counted(() => Promise.all(tasks.map((_, i) => ask(i))));
    expect(atOnce.prefilled).toBeLessThanOrEqual(shared + differences);
    const again = await counted(() => Promise.all(tasks.map((_, i) => ask(i))));
    // What a prompt's last token is followed by must be computed.
    expect(again.prefilled).toBeLessThanOrEqual(tasks.length);

    await using other = await Engine.load("mini", { device: "cpu" });
    const askOther = asker(new ChatDeftree({ engine: other, maxTokens: 48 }));
    const inTurn: string[] = [];
    for (const i of tasks.keys()) inTurn.push(await askOther(i));
    expect(other.stats().prefilledTokens).toBeLessThanOrEqual(shared + differences);
    expect(inTurn).toEqual(atOnce.result);
    expect(again.result).toEqual(atOnce.result);
  });
});

describe("calls of one chat model at the same time", () => {
  type Prompt = [SystemMessage, HumanMessage];
  const ways: [string, (model: ChatDeftree, prompts: Prompt[]) => Promise<{ usage_metadata?: unknown }[]>][] = [
    ["invoke", (model, prompts) => Promise.all(prompts.map((prompt) => model.invoke(prompt)))],
    ["batch", (model, prompts) => model.batch(prompts)],
    [
      "stream",
      (model, prompts) =>
        Promise.all(
          prompts.map(async (prompt) => {
            let last = {};
            for await (const chunk of await model.stream(prompt)) last = chunk;
            return last;
          }),
        ),
    ],
  ];

  it.each(ways)("decode in one step, by %s", async (name, ask) => {
    const system = systemPrompt(`Grace by ${name}`);
    const gateTokens = engine.tokenizer.encode(systemPrompt(`the gate of ${name}`));
    const { gathered, gatePrefill } = gathering(tasks.length, gateTokens);
    const model = new ChatDeftree({ engine: gathered, maxTokens: 48 });
    const prompts = tasks.map((task): Prompt => [new SystemMessage(system), new HumanMessage(task)]);
    const { shared, differences } = shape(tasks.map((task) => promptTokens(system, task)));
    const { result, steps, prefilled, decoded } = await counted(() => ask(model, prompts));
    const ofGate = await gatePrefill;
    const outputs = result.map(({ usage_metadata }) => (usage_metadata as { output_tokens: number }).output_tokens);
    expect(decoded).toBe(outputs.reduce((a, b) => a + b, 0));
    expect(prefilled - ofGate).toBeLessThanOrEqual(shared + differences);
    expect(steps).toBeLessThanOrEqual(Math.max(...outputs) + prefillSteps(prefilled, prompts.length));
  });

  it("decode n answers to one prompt in one step, each another", async () => {
    const task = sortPrompt(digits(64, 50));
    const ask = (model: ChatDeftree) => model.generate([[new HumanMessage(task)]], { n: 6, temperature: 3, seed: 7 });
    const { gathered, gatePrefill } = gathering(1, engine.tokenizer.encode(systemPrompt("the gate of n")));
    const { result, steps, prefilled } = await counted(() => ask(new ChatDeftree({ engine: gathered, maxTokens: 48 })));
    const ofGate = await gatePrefill;
    const texts = result.generations[0]!.map(({ text }) => text);
    expect(new Set(texts).size).toBeGreaterThan(1);
    expect(prefilled - ofGate).toBeLessThanOrEqual(engine.encodeChat([{ role: "user", content: task }]).length);
    expect(steps).toBeLessThanOrEqual(48 + prefillSteps(prefilled, 1));
    expect((await ask(chat)).generations[0]!.map(({ text }) => text)).toEqual(texts);
  });
});
