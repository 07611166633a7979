/** Models with random weights on the CPU: loaded by name, decoded by token ids, no text. */
import { describe, expect, it } from "vitest";
import { Engine } from "../src/index.js";
import { resolveModel } from "../src/model-source.js";
import { expectedTensors } from "../src/tensor-table.js";

const options = { device: "cpu", threads: 2, kvTokens: 2048 } as const;
const greedy = { maxTokens: 12 };

async function decodeAlone(source: string): Promise<number[]> {
  await using engine = await Engine.load(source, options);
  const branch = engine.branch();
  await branch.extend([1, 2, 3, 4]);
  return (await branch.decode(greedy)).tokens;
}

describe("a random model", () => {
  it("decodes token ids, the same for the same seed", async () => {
    const tokens = await decodeAlone("random:tiny,layers=4");
    expect(tokens).toHaveLength(12);
    expect(await decodeAlone("random:tiny,layers=4,seed=1")).toEqual(tokens);
    expect(await decodeAlone("random:layers=4,seed=2")).not.toEqual(tokens);
  });

  it("has no text, and says so", async () => {
    await using engine = await Engine.load("random:tiny", options);
    const branch = engine.branch();
    await branch.extend([1]);
    const refused = { code: "E_BAD_ARGUMENT", message: expect.stringMatching(/no tokenizer: use token ids/) };
    await expect(branch.extend("text")).rejects.toMatchObject(refused);
    await expect(branch.score("text")).rejects.toMatchObject(refused);
    await expect(branch.decode({ stop: ["x"] }).result).rejects.toMatchObject(refused);
    expect(() => engine.tokenizer.decode([1])).toThrow(expect.objectContaining(refused));
    expect(() => engine.encodeChat([])).toThrow(expect.objectContaining({ code: "E_BAD_ARGUMENT" }));
    expect((await branch.decode(greedy)).text).toBe("");
    expect((await branch.score([5])).logprobs).toHaveLength(1);
  });

  it.each([
    ["random:llama-3-8b", 8.03e9],
    ["random:llama-3.2-1b", 1.236e9],
  ])("%s has the model's number of weights", async (source, expected) => {
    const { config } = await resolveModel(source);
    const sizes = [...expectedTensors(config).values()].map((shape) =>
      shape.reduce((product, size) => product * size, 1),
    );
    const total = sizes.reduce((sum, size) => sum + size, 0);
    expect(Math.abs(total - expected) / expected).toBeLessThan(1e-3);
  });

  it.each([
    ["random:", "E_BAD_ARGUMENT", /llama-3-8b, llama-3\.2-1b, tiny/],
    ["random:gpt-2", "E_BAD_ARGUMENT", /"gpt-2"/],
    ["random:toString", "E_BAD_ARGUMENT", /"toString"/],
    ["random:tiny,depth=3", "E_BAD_ARGUMENT", /"depth=3".*layers, hidden/],
    ["random:tiny,layers=x", "E_BAD_ARGUMENT", /"layers=x"/],
    ["random:tiny,layers=0", "E_BAD_MODEL", /numLayers = 0/],
    ["random:tiny,layers=99999999999999999999", "E_BAD_MODEL", /numLayers/],
    ["random:tiny,heads=3", "E_BAD_MODEL", /3 query heads/],
  ])("refuses %j", async (source, code, message) => {
    await expect(Engine.load(source, options)).rejects.toMatchObject({ code, message: expect.stringMatching(message) });
  });
});
