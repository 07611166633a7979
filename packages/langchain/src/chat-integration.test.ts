import { InMemoryCache } from "@langchain/core/caches";
import { load } from "@langchain/core/load";
import { describe, expect, it } from "vitest";
import packageJson from "../package.json" with { type: "json" };
import { FakeEngine } from "../test/fake-engine.js";
import { ChatDeftree } from "./index.js";

const echoing = () => new FakeEngine({ reply: (prompt) => `You said ${prompt.match(/<user>(.*)/)![1]}.` });
const digits = () => new FakeEngine({ reply: () => "0123456789012345" });

describe("as a LangChain model", () => {
  it("takes a model by name or by fields", () => {
    expect(new ChatDeftree("org/name", { temperature: 1 })).toMatchObject({
      model: "org/name",
      sampling: { temperature: 1 },
    });
    expect(new ChatDeftree().model).toBe("mini");
  });

  it("tells tracers what it is", () => {
    const chat = new ChatDeftree({ engine: digits(), temperature: 0.5, maxTokens: 9, stop: ["a"] });
    expect(chat.getLsParams({ stop: ["b"] })).toEqual({
      ls_provider: "deftree",
      ls_model_name: "fake",
      ls_model_type: "chat",
      ls_temperature: 0.5,
      ls_max_tokens: 9,
      ls_stop: ["a", "b"],
    });
    expect(chat.metadata).toMatchObject({ versions: { "@deftree/langchain": packageJson.version } });
  });

  it("is written down as its constructor's arguments, and read again", async () => {
    const chat = new ChatDeftree("org/name", { temperature: 0.5, maxTokens: 9, stop: ["a"], kvType: "f16" });
    const optionalImportsMap = { "langchain/chat_models/deftree": { ChatDeftree } };
    const again = await load<ChatDeftree>(JSON.stringify(chat), { optionalImportsMap });
    expect(again).toBeInstanceOf(ChatDeftree);
    expect(again._identifyingParams()).toEqual(chat._identifyingParams());
    expect(JSON.stringify(new ChatDeftree({ engine: digits() }))).toContain("not_implemented");
  });

  it("has another cache key for each setting that changes the answer, and none for a signal", () => {
    const key = (fields: object, options = {}) =>
      new ChatDeftree(fields)._getSerializedCacheKeyParametersForCall(options);
    const fields = [
      ...[{}, { model: "a" }, { weights: "int8" }, { kvType: "f16" }, { device: "cpu" }, { stop: ["x"] }, { n: 2 }],
      ...[{ temperature: 1 }, { topK: 2 }, { topP: 0.5 }, { minP: 0.1 }, { seed: 1 }, { maxTokens: 5 }],
      ...[{ repetitionPenalty: 1.1 }, { logitBias: { 3: 1 } }],
    ];
    const schemas = [{ type: "object" }, { type: "array" }];
    const options = [
      ...schemas.map((schema) => ({ response_format: { type: "json_schema", json_schema: { schema } } })),
      ...["any", "none"].map((tool_choice) => ({ tool_choice })),
    ];
    const keys = [...fields.map((given) => key(given)), ...options.map((given) => key({}, given))];
    expect(new Set(keys).size).toBe(keys.length);
    expect(key({}, { signal: new AbortController().signal })).toBe(key({}));
    const other = digits();
    other.info.modelPath = "elsewhere";
    expect(key({ engine: other })).not.toBe(key({ engine: digits() }));
  });

  it("takes answers from a cache", async () => {
    const engine = echoing();
    const chat = new ChatDeftree({ engine, cache: new InMemoryCache() });
    const first = await chat.invoke("hello");
    const decoded = engine.decodedTokens;
    expect((await chat.invoke("hello", { signal: new AbortController().signal })).text).toBe(first.text);
    expect(engine.decodedTokens).toBe(decoded);
    await chat.invoke("hello", { seed: 3 });
    expect(engine.decodedTokens).toBeGreaterThan(decoded);
  });

  it("counts tokens with the model's tokenizer and knows its context", async () => {
    const chat = new ChatDeftree({ engine: digits() });
    expect(await chat.getNumTokens("hello")).toBe(5);
    expect(chat.profile).toMatchObject({ maxInputTokens: 2000, structuredOutput: true });
  });
});
