/**
 * LangChain's checks of a chat model on the real engine, with the embedded model, whose tool calls are forced, and with
 * SmolLM2, which follows examples; and on scripted answers, so that every check runs where SmolLM2 is absent.
 */
import { existsSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { Engine } from "@deftree/engine";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { ChatDeftree, type ChatDeftreeFields } from "../src/index.js";
import { type ConformanceTarget, describeIntegrationChecks, describeUnitChecks } from "./conformance.js";
import { FakeEngine } from "./fake-engine.js";

const modelsFolder = process.env.DEFTREE_TEST_MODELS ?? path.join(os.homedir(), ".cache", "deftree-test-models");
const smolLm2 = path.join(modelsFolder, "SmolLM2-135M-Instruct.Q4_1.gguf");

describe("unit checks", () => describeUnitChecks((fields) => new ChatDeftree(fields)));

describe("integration checks with mini", () => onEngine("mini", { callsAreForced: true }));

if (existsSync(smolLm2)) describe("integration checks with SmolLM2-135M", () => onEngine(smolLm2, {}));
else describe.skip(`integration checks with SmolLM2-135M (absent: ${smolLm2})`, () => it("is absent", () => {}));

describe("integration checks with scripted answers", () => {
  const engine = () => new FakeEngine({ reply: scriptedAnswer, contextLength: 10_000 });
  describeIntegrationChecks({ chat: (fields) => new ChatDeftree({ engine: engine(), ...fields }) });
});

/** Calls the tool that is offered, or writes the JSON that is asked for, when the last turn is a user's. */
function scriptedAnswer(prompt: string): string {
  const asked = /<user>([^<]*)\n<assistant>$/.exec(prompt)?.[1] ?? "";
  const sums = [...asked.matchAll(/(\d+) \+ (\d+)/g)].map(([, a, b]) => ({ a: Number(a), b: Number(b) }));
  const order = /Order (\d+) (\w+)/.exec(asked);
  if (prompt.includes("one JSON object") || prompt.includes("JSON Schema")) return JSON.stringify(sums[0]);
  if (!prompt.includes("You can call") || (sums.length === 0 && order === null)) return "It is done.";
  const call = (name: string, parameters: object) => JSON.stringify({ name, parameters });
  if (order !== null) return call("order", { item: { name: order[2], count: Number(order[1]) } });
  return sums.map((sum) => call("add", sum)).join("\n");
}

function onEngine(model: string, target: Omit<ConformanceTarget, "chat">): void {
  let engine: Engine;
  beforeAll(async () => {
    engine = await Engine.load(model);
  });
  afterEach(async () => {
    await engine.checkInvariants();
    expect(engine.stats().branches).toBe(0);
  });
  afterAll(() => engine.dispose());
  const chat = (fields?: ChatDeftreeFields) => new ChatDeftree({ maxTokens: 64, ...fields, engine });
  describeIntegrationChecks({ ...target, chat });
}
