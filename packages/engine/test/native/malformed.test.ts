import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { loadAddon } from "../../src/addon-loader.js";
import type { NativeCommand } from "../../src/native-addon.js";
import { AddonHarness, codeOf, endlessDecode, promptOf } from "./harness.js";
import { type TinyModel, tinyModel } from "./tiny-model.js";

const decode = { ...endlessDecode(1), request: 1 };
const sampled = (sampling: object) => ({ ...decode, sampling });
const speculating = (speculation: unknown) => ({ ...decode, speculation });

/** A malformed command, and the field that its error names. */
const commands: [description: string, field: string, command: unknown][] = [
  ["no object", "commands[0]", 7],
  ["no op", "commands[0].op", {}],
  ["unknown op", "commands[0].op", { op: "explode", branch: 1 }],
  ["negative branch", "commands[0].branch", { op: "create", branch: -1 }],
  ["fractional branch", "commands[0].branch", { op: "create", branch: 1.5 }],
  ["huge branch", "commands[0].branch", { op: "create", branch: 2 ** 32 }],
  ["branch as text", "commands[0].branch", { op: "create", branch: "1" }],
  ["no request", "commands[0].request", { op: "logits", branch: 1 }],
  ["tokens as a list", "commands[0].tokens", { op: "extend", request: 1, branch: 1, tokens: [1, 2] }],
  ["tokens as floats", "commands[0].tokens", { op: "extend", request: 1, branch: 1, tokens: Float32Array.of(1) }],
  ["token past the vocabulary", "tokens[1]", { op: "extend", request: 1, branch: 1, tokens: Int32Array.of(1, 300) }],
  ["negative token", "tokens[0]", { op: "score", request: 1, branch: 1, tokens: Int32Array.of(-1) }],
  ["children no list", "commands[0].children", { op: "fork", request: 1, branch: 1, children: 3, firstOrdinal: 0 }],
  [
    "child no id",
    "commands[0].children[1]",
    { op: "fork", request: 1, branch: 1, children: [2, null], firstOrdinal: 0 },
  ],
  ["maxTokens infinite", "commands[0].maxTokens", { ...decode, maxTokens: Number.POSITIVE_INFINITY }],
  ["maxTokens NaN", "commands[0].maxTokens", { ...decode, maxTokens: Number.NaN }],
  ["stopTokens missing", "commands[0].stopTokens", { ...decode, stopTokens: undefined }],
  ["stop token out of range", "stopTokens[0]", { ...decode, stopTokens: [-7] }],
  ["stop string as text", "commands[0].stopStrings[0]", { ...decode, stopStrings: ["x"] }],
  ["sampling missing", "commands[0].sampling", { ...decode, sampling: undefined }],
  ["temperature negative", "temperature", sampled({ temperature: -1 })],
  ["temperature NaN", "commands[0].sampling.temperature", sampled({ temperature: Number.NaN })],
  ["topP above one", "topP", sampled({ topP: 1.01 })],
  ["topK fractional", "commands[0].sampling.topK", sampled({ topK: 1.5 })],
  ["seed too large", "commands[0].sampling.seed", sampled({ seed: 2 ** 60 })],
  ["bias no pair", "commands[0].sampling.logitBias[0]", sampled({ logitBias: [[1]] })],
  ["bias of no token", "logitBias", sampled({ logitBias: [[300, 1]] })],
  ["logprobs negative", "commands[0].sampling.logprobs", sampled({ logprobs: -1 })],
  ["speculation as text", "commands[0].speculation", speculating("auto")],
  ["unknown mode", "commands[0].speculation.mode", speculating({ mode: "on" })],
  ["no draft tokens", "speculation.maxDraftTokens", speculating({ mode: "auto", maxDraftTokens: 0 })],
  ["no sources", "speculation.sources", speculating({ mode: "auto", maxDraftTokens: 1, sources: [] })],
  ["unknown source", "speculation.sources[0]", speculating({ mode: "auto", maxDraftTokens: 1, sources: ["x"] })],
  ["length negative", "commands[0].length", { op: "truncate", request: 1, branch: 1, length: -1 }],
  ["keepCached missing", "commands[0].keepCached", { op: "prune", branch: 1 }],
  ["unknown policy", "psychic", { op: "setAttention", attention: "psychic" }],
];

describe("submit", () => {
  let model: TinyModel;
  let harness: AddonHarness;
  beforeAll(async () => {
    model = tinyModel();
    harness = await AddonHarness.load(model.spec);
  });
  afterAll(async () => {
    await harness.engine.dispose();
    model.remove();
  });

  const thrownBy = (argument: unknown): Error & { code?: string } => {
    try {
      harness.engine.submit(argument as NativeCommand[]);
    } catch (error) {
      return error as Error;
    }
    throw new Error("submit took it");
  };

  test.each(commands)("%s", (_, field, command) => {
    const error = thrownBy([command]);
    expect(error.code).toBe("E_BAD_ARGUMENT");
    expect(error.message).toContain(field);
  });

  test.each([[undefined], [null], [{}], ["create"]])("no list of commands: %s", (argument) => {
    expect(thrownBy(argument).code).toBe("E_BAD_ARGUMENT");
  });

  test("a throwing getter passes through, and a bad command takes its whole batch with it", async () => {
    const trap = Object.defineProperty({}, "op", {
      get: () => {
        throw new RangeError("mine");
      },
    });
    expect(thrownBy([trap])).toBeInstanceOf(RangeError);
    thrownBy([
      { op: "create", branch: 77 },
      { op: "create", branch: -1 },
    ]);
    expect((await harness.request({ op: "logits", branch: 77 })).error?.code).toBe("E_DISPOSED");
    harness.engine.submit([{ op: "create", branch: 78 }]);
    expect((await harness.request({ op: "extend", branch: 78, tokens: promptOf(3) })).reason).toBe("done");
  });
});

describe("the other functions", () => {
  const addon = loadAddon();

  test("load rejects a malformed spec with the field's name", async () => {
    const { spec, remove } = tinyModel();
    const message = async (change: object) => {
      const error = await addon.load({ ...spec, ...change }, () => {}).catch((e) => e);
      expect(codeOf(error)).toBe("E_BAD_ARGUMENT");
      return error.message as string;
    };
    expect(await message({ config: { ...spec.config, numLayers: 0 } })).toContain("spec.config.numLayers");
    expect(await message({ config: undefined })).toContain("spec.config");
    expect(await message({ files: "x" })).toContain("spec.files");
    expect(await message({ tensors: [{ ...spec.tensors[0], file: 3 }] })).toContain("spec.tensors[0].file");
    expect(await message({ tensors: [{ ...spec.tensors[0], offset: -1 }] })).toContain("spec.tensors[0].offset");
    expect(await message({ weights: "int2" })).toContain("spec.weights");
    expect(await message({ speculation: undefined })).toContain("spec.speculation");
    expect(await message({ tokenByteOffsets: Uint32Array.of(0, 5, 3) })).toContain("tokenByteOffsets");
    expect(await message({ tokenByteOffsets: Uint32Array.of(0, 1e6) })).toContain("tokenByteOffsets");
    const noCallback = await addon.load(spec, undefined as never).catch((e) => e);
    expect(codeOf(noCallback)).toBe("E_BAD_ARGUMENT");
    remove();
  });

  test("dequantize gives the values of whole blocks", () => {
    expect([...addon.dequantize("F32", new Uint8Array(Float32Array.of(1.5, -2).buffer))]).toEqual([1.5, -2]);
    expect([...addon.dequantize("BF16", Uint8Array.of(0x80, 0x3f))]).toEqual([1]);
    expect(addon.dequantize("Q4_K", new Uint8Array(0))).toHaveLength(0);
    expect(() => addon.dequantize("Q8_0", new Uint8Array(33))).toThrow(/blocks of 34/);
    expect(() => addon.dequantize("Q9_9", new Uint8Array(34))).toThrow(/Q9_9/);
  });

  test("plan counts what a tree shares", () => {
    const tree = {
      nodes: [{ parent: -1, len: 1000 }, ...Array.from({ length: 4 }, () => ({ parent: 0, len: 10 }))],
      queries: [1, 2, 3, 4],
    };
    const shape = { numQoHeads: 4, numKvHeads: 2, headDim: 64, numProcessors: 1 };
    const deft = addon.plan(tree, { policy: "deft-flatten", ...shape });
    expect(deft).toMatchObject({ kvTokensRead: 1040, kvTokensUnshared: 4 * 1010 });
    expect(new Set(deft.items.flatMap((item) => item.queries))).toEqual(new Set([0, 1, 2, 3]));
    expect(addon.plan(tree, { policy: "radix", ...shape }).kvTokensRead).toBe(4 * 1010);
    const bad = (nodes: object[], queries: number[]) => () =>
      addon.plan({ nodes, queries } as never, { policy: "radix", ...shape });
    expect(bad([{ parent: 5, len: 1 }], [0])).toThrow();
    expect(bad([{ parent: -1, len: 1 }], [3])).toThrow();
    expect(bad([{ parent: -1 }], [0])).toThrow(/tree.nodes\[0\].len/);
  });
});
