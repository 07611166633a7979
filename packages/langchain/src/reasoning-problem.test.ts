import { breadthFirst, choiceLogprobs, llmValue, search } from "@deftree/search";
import { AIMessage, HumanMessage, SystemMessage, ToolMessage } from "@langchain/core/messages";
import { describe, expect, it } from "vitest";
import { FakeEngine } from "../test/fake-engine.js";
import { reasoningProblem } from "./agent.js";
import { EngineThoughtModel } from "./index.js";

const calls = [{ name: "weather", args: { city: "Paris" }, id: "1", type: "tool_call" as const }];
const messages = [
  new SystemMessage("Be brief."),
  new HumanMessage("What shall I wear in Paris?"),
  new AIMessage({ content: "", tool_calls: calls }),
  new ToolMessage({ content: "18 degrees", tool_call_id: "1" }),
];

describe("thinking about a conversation", () => {
  it("asks for notes behind the conversation, tools in words", () => {
    const prompt = reasoningProblem(messages, {
      tools: [{ name: "weather", description: "Tells the weather" }],
    }).prompt();
    expect(prompt.slice(0, 4)).toEqual([
      { role: "system", content: "Be brief." },
      { role: "user", content: "What shall I wear in Paris?" },
      { role: "assistant", content: 'I call weather with {"city":"Paris"}.' },
      { role: "user", content: "The tool answered: 18 degrees" },
    ]);
    expect(prompt[4]!.content).toMatch(/one a line.*\n- weather: Tells the weather$/s);
    expect(reasoningProblem(messages).prompt()[4]!.content).not.toContain("tool");
  });

  it("has a value question about the request and the notes", () => {
    const { value } = reasoningProblem(messages);
    const [question] = value!.prompt({ text: "It is mild.\n", isWhole: false })!;
    expect(question!.content).toMatch(/wear in Paris\?\n.*\nIt is mild\.\n.*Yes or No/s);
    expect(["Yes.", "no", " YES, they do", "Perhaps"].map((text) => value!.read(text)?.[0])).toEqual([
      1,
      0,
      1,
      undefined,
    ]);
  });

  it.each([
    ["log-probabilities", choiceLogprobs()],
    ["verdicts", llmValue({ samples: 1, maxTokens: 4 })],
  ])("ends after so many lines, valued by %s", async (_, evaluate) => {
    const reply = (prompt: string) => (prompt.includes("Yes or No") ? "Yes" : "one\ntwo\nthree\nfour");
    const engine = new FakeEngine({ reply });
    const strategy = breadthFirst({ grow: "continue", width: 2, depth: 8 });
    const problem = reasoningProblem(messages, { steps: 3 });
    const result = await search(problem, strategy, new EngineThoughtModel(engine), { evaluate });
    expect(result).toMatchObject({ answer: "one\ntwo\nthree", solved: false });
    expect(result.statistics.depth).toBe(3);
    expect(engine.openBranches).toBe(0);
  });
});
