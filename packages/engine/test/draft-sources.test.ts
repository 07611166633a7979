/** Draft models and sources of one's own: whatever they propose, or fail to, the tokens are those of plain decoding. */
import { mkdirSync, writeFileSync } from "node:fs";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import {
  DeftreeError,
  type DraftContext,
  type DraftSource,
  type DraftTree,
  Engine,
  type EngineOptions,
} from "../src/index.js";
import { temporaryFolder } from "./temporary-folder.js";
import { safetensorsFile, tinyConfig, writeTinyModel } from "./tiny-model.js";

const folder = temporaryFolder();
const tiny = writeTinyModel(path.join(folder, "tiny"));
const load = (options: EngineOptions = {}) =>
  Engine.load(tiny, { device: "cpu", threads: 1, weights: "f32", ...options });
async function expectRefused(refused: Promise<unknown>, code: string, message: RegExp): Promise<DeftreeError> {
  const error = await refused.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (!DeftreeError.isInstance(error)) throw new Error(`refused with a DeftreeError; got ${String(error)}`);
  expect(error.code).toBe(code);
  expect(error.message).toMatch(message);
  return error;
}

const prompt = Array.from({ length: 24 }, (_, i) => 5 + ((i * i) % 11));

async function answer(engine: Engine, options: Parameters<ReturnType<Engine["branch"]>["decode"]>[0]) {
  const branch = engine.branch();
  await branch.extend(prompt);
  const { tokens } = await branch.decode({ maxTokens: 40, stopTokens: [], ...options });
  branch.prune();
  return tokens;
}

describe("a draft model", () => {
  it.each([0, 1])("drafts, at temperature %d, and the tokens stay", { timeout: 60_000 }, async (temperature) => {
    await using engine = await load({ speculation: { mode: "always", sources: [{ kind: "model", model: tiny }] } });
    const plain = await answer(engine, { temperature, seed: 3, speculation: "off" });
    expect(engine.stats().draftedTokens).toBe(0);
    expect(await answer(engine, { temperature, seed: 3, speculation: { mode: "always", sources: ["model"] } })).toEqual(
      plain,
    );
    const { draftSources, steps, refusedDrafts } = engine.stats();
    const { model, suffix } = draftSources;
    expect(refusedDrafts).toBe(0);
    expect(suffix).toEqual({ draftedTokens: 0, acceptedTokens: 0, ns: 0, ranks: [] });
    expect(model.draftedTokens).toBeGreaterThan(20);
    expect(model.ns).toBeGreaterThan(0);
    const sum = (key: "draftedTokens" | "acceptedTokens") => model.ranks.reduce((total, rank) => total + rank[key], 0);
    expect([sum("draftedTokens"), sum("acceptedTokens")]).toEqual([model.draftedTokens, model.acceptedTokens]);
    // The draft model is the model: greedy, its likeliest path is what comes.
    if (temperature === 0) {
      expect(model.acceptedTokens).toBeGreaterThan(20);
      expect(steps).toBeLessThan(40 + 30);
    }
  });

  it("drafts for branches that fork, are cut and go on", async () => {
    const grow = async (speculation: EngineOptions["speculation"]) => {
      await using engine = await load({ speculation });
      const branch = engine.branch();
      await branch.extend(prompt);
      const options = { maxTokens: 12, stopTokens: [], temperature: 1, seed: 5 };
      const trunk = await branch.decode(options);
      const children = branch.fork(3);
      const grown = await Promise.all(children.map((child) => child.decode(options)));
      await children[0]!.truncate(20);
      const again = await children[0]!.decode(options);
      await engine.checkInvariants();
      return [trunk, ...grown, again].map(({ tokens }) => tokens);
    };
    expect(await grow({ mode: "always", sources: [{ kind: "model", model: tiny }] })).toEqual(await grow("off"));
  });

  it("with another vocabulary is refused, with figures", async () => {
    const other = "random:tiny";
    const { figures } = await expectRefused(
      load({ speculation: { sources: [{ kind: "model", model: other }] } }),
      "E_BAD_ARGUMENT",
      /cannot draft for this model: it has \d+ tokens, the model \d+/,
    );
    expect(figures).toMatchObject({ vocabSize: expect.any(Number), draftVocabSize: expect.any(Number) });
  });

  it("that is not there is told as any model is", () =>
    expectRefused(
      load({ speculation: { sources: [{ kind: "model", model: "/no/such/model" }] } }),
      "E_MODEL_NOT_FOUND",
      /no.such.model/,
    ));
});

describe("Medusa heads", () => {
  const [hidden, vocab] = [tinyConfig.hiddenSize, tinyConfig.vocabSize];
  interface Heads {
    numHeads?: number;
    numBlocks?: number;
    hiddenSize?: number;
    config?: Record<string, unknown>;
    without?: string;
  }

  /** A folder of heads with values that depend on their place alone. */
  function writeHeads(name: string, { numHeads = 3, numBlocks = 1, hiddenSize = hidden, config, without }: Heads = {}) {
    const values = (count: number, scale: number) =>
      new Uint8Array(Float32Array.from({ length: count }, (_, i) => scale * Math.sin(1 + i * 12.9898)).buffer);
    const tensor = (tensorName: string, shape: number[], scale: number) => ({
      ...{ name: tensorName, dtype: "F32", shape },
      data: values(
        shape.reduce((product, size) => product * size, 1),
        scale,
      ),
    });
    const indices = (length: number) => Array.from({ length }, (_, i) => i);
    const tensors = indices(numHeads).flatMap((head) => [
      ...indices(numBlocks).flatMap((block) => [
        tensor(`${head}.${block}.linear.weight`, [hiddenSize, hiddenSize], 0.1),
        tensor(`${head}.${block}.linear.bias`, [hiddenSize], 0.1),
      ]),
      tensor(`${head}.${numBlocks}.weight`, [vocab, hiddenSize], 0.2 + 0.1 * head),
    ]);
    const heads = path.join(folder, name);
    mkdirSync(heads, { recursive: true });
    const json = { medusa_num_heads: numHeads, medusa_num_layers: numBlocks, ...config };
    writeFileSync(path.join(heads, "config.json"), JSON.stringify(json));
    const kept = tensors.filter((each) => each.name !== without);
    writeFileSync(path.join(heads, "medusa_lm_head.safetensors"), safetensorsFile(kept));
    return heads;
  }

  it.each([0, 1, 2])("of %d layers draft, and the tokens stay", async (numBlocks) => {
    const heads = writeHeads(`medusa-${numBlocks}`, { numBlocks });
    await using engine = await load({ speculation: { mode: "always", sources: [{ kind: "medusa", heads }] } });
    const speculation = { mode: "always", sources: ["medusa"] } as const;
    for (const sampling of [{ temperature: 0 }, { temperature: 1, seed: 4 }]) {
      const plain = await answer(engine, { ...sampling, speculation: "off" });
      expect(await answer(engine, { ...sampling, speculation })).toEqual(plain);
    }
    const branch = engine.branch();
    await branch.extend(prompt);
    const grown = await Promise.all(
      branch.fork(3).map((child) => child.decode({ maxTokens: 9, temperature: 1, speculation })),
    );
    expect(grown.map(({ tokens }) => tokens.length)).toEqual([9, 9, 9]);
    const { medusa } = engine.stats().draftSources;
    expect(medusa.draftedTokens).toBeGreaterThan(20);
    expect(medusa.ns).toBeGreaterThan(0);
    expect(engine.stats().refusedDrafts).toBe(0);
    await engine.checkInvariants();
  });

  it.each<[string, Heads, RegExp]>([
    [
      "another hidden size",
      { hiddenSize: 64 },
      /"0.0.linear.weight" is \[64,64\]; heads of this model have \[128,128\]/,
    ],
    ["a head too few", { config: { medusa_num_heads: 4 } }, /no tensor "3.0.linear.weight"; 4 heads of 1 layers/],
    ["a tensor that is missing", { without: "1.0.linear.bias" }, /no tensor "1.0.linear.bias"/],
    ["a head that is not told of", { config: { medusa_num_heads: 2 } }, /2\.0\.linear/],
    ["no number of heads", { config: { medusa_num_heads: "many" } }, /medusa_num_heads "many"/],
  ])("with %s are refused", async (name, options, message) => {
    const heads = writeHeads(`medusa ${name}`, options);
    await expectRefused(load({ speculation: { sources: [{ kind: "medusa", heads }] } }), "E_BAD_MODEL", message);
  });

  it("that are not there are told", () =>
    expectRefused(
      load({ speculation: { sources: [{ kind: "medusa", heads: "/no/heads" }] } }),
      "E_MODEL_NOT_FOUND",
      /no.heads/,
    ));
});

describe("a source of one's own", () => {
  let engine: Engine;
  let plain: number[];
  beforeAll(async () => {
    engine = await load();
    plain = await answer(engine, {});
  });
  afterAll(() => engine.dispose());

  /** What comes, as far as the plain answer goes. */
  const right = ({ tokens, maxTokens }: DraftContext): DraftTree => {
    const from = tokens.length - prompt.length;
    return { tokens: plain.slice(from, from + Math.min(6, maxTokens)) };
  };
  async function decodeWith(propose: DraftSource["propose"], source: DraftSource = { propose }) {
    const before = engine.stats();
    const tokens = await answer(engine, { speculation: { mode: "always", sources: [source] } });
    const after = engine.stats();
    await engine.checkInvariants();
    return {
      tokens,
      drafted: after.draftSources.custom.draftedTokens - before.draftSources.custom.draftedTokens,
      accepted: after.acceptedDraftTokens - before.acceptedDraftTokens,
      refused: after.refusedDrafts - before.refusedDrafts,
      late: after.lateDrafts - before.lateDrafts,
    };
  }

  it("is heard when it is right, at once or later", async () => {
    // Which steps it comes in time for is the machine's business; over some decodes it does for some.
    let accepted = 0;
    for (let i = 0; i < 20 && accepted === 0; i++) {
      const now = await decodeWith(right);
      const later = await decodeWith(async (context) => right(context));
      expect([now.tokens, later.tokens, now.refused, later.refused]).toEqual([plain, plain, 0, 0]);
      accepted += now.accepted + later.accepted;
    }
    expect(accepted).toBeGreaterThan(0);
  });

  it("gets the branch's text and an end", async () => {
    const contexts: DraftContext[] = [];
    await decodeWith((context) => void contexts.push(context));
    expect([...contexts[0]!.tokens.slice(0, prompt.length)]).toEqual(prompt);
    for (const { tokens, maxTokens, signal } of contexts) {
      expect([...tokens.slice(prompt.length)]).toEqual(plain.slice(0, tokens.length - prompt.length));
      expect(maxTokens).toBeLessThanOrEqual(prompt.length + 40 - tokens.length);
      expect(signal.aborted).toBe(true);
    }
  });

  it("may answer never, or when all is over", async () => {
    expect((await decodeWith(() => new Promise(() => {}))).tokens).toEqual(plain);
    let finish = () => {};
    const { tokens } = await decodeWith(
      (context) => new Promise((resolve) => (finish = () => resolve(right(context)))),
    );
    finish();
    await new Promise((resolve) => setImmediate(resolve));
    expect(tokens).toEqual(plain);
    expect(await answer(engine, {})).toEqual(plain);
  });

  it.each<[string, DraftSource["propose"]]>([
    [
      "throws",
      () => {
        throw new Error("no idea");
      },
    ],
    [
      "rejects",
      async () => {
        throw new Error("no idea");
      },
    ],
    ["gives no tree", () => ({}) as DraftTree],
    ["gives tokens that are no integers", () => ({ tokens: [1.5] })],
    ["gives tokens outside of the vocabulary", () => ({ tokens: [1 << 20] })],
    ["gives negative tokens", () => ({ tokens: [-1] })],
    ["gives a cycle", () => ({ tokens: [5, 6], parents: [1, 0] })],
    ["gives a token twice", () => ({ tokens: [5, 5], parents: [-1, -1] })],
    ["gives too few parents", () => ({ tokens: [5, 6], parents: [-1] })],
    ["gives a probability of 2", () => ({ tokens: [5], probabilities: [2] })],
    ["gives too large a tree", () => ({ tokens: Array.from({ length: 1025 }, () => 5) })],
  ])("that %s is counted, and the text stays", async (_, propose) => {
    const warn = vi.spyOn(process, "emitWarning").mockImplementation(() => {});
    try {
      const source = { propose };
      let numRefused = 0;
      for (let i = 0; i < 50 && numRefused === 0; i++) {
        const { tokens, drafted, refused } = await decodeWith(propose, source);
        expect(tokens).toEqual(plain);
        expect(drafted).toBe(0);
        numRefused += refused;
      }
      expect(numRefused).toBeGreaterThan(0);
      expect(warn.mock.calls.length).toBeLessThanOrEqual(1);
    } finally {
      warn.mockRestore();
    }
  });

  it("is dropped and counted when the text went another way", async () => {
    const { tokens, late } = await decodeWith(({ tokens: text }) => {
      const next = plain[text.length - prompt.length];
      return { tokens: [next === 5 ? 6 : 5, 7] };
    });
    expect(tokens).toEqual(plain);
    expect(late).toBeGreaterThanOrEqual(0);
  });

  it("can be loaded with the engine, for all decodes", async () => {
    let num = 0;
    const source: DraftSource = { propose: () => void num++ };
    await using own = await load({ speculation: { mode: "always", sources: ["suffix", source] } });
    expect(await answer(own, {})).toEqual(plain);
    expect(num).toBeGreaterThan(0);
    const before = num;
    await answer(own, { speculation: { mode: "always", sources: ["suffix"] } });
    await answer(own, { speculation: "off" });
    expect(num).toBe(before);
  });
});

describe("what a decode may name", () => {
  it.each<[unknown, RegExp]>([
    ["model", /"model" is unknown; this engine has suffix, recycling, and takes an object with propose/],
    ["medusa", /"medusa" is unknown/],
    [
      { kind: "model", model: tiny },
      /a draft model is loaded with the engine, in Engine.load; a decode names the source "model"/,
    ],
    [{ kind: "medusa", heads: "x" }, /Medusa heads are loaded with the engine/],
    [{ kind: "oracle" }, /is unknown/],
    [null, /null is unknown/],
    [{ propose: 5 }, /is unknown/],
  ])("not %j", async (source, message) => {
    await using engine = await load();
    const branch = engine.branch();
    await branch.extend(prompt);
    const speculation = { sources: [source] } as EngineOptions["speculation"];
    await expectRefused(branch.decode({ speculation }).result, "E_BAD_ARGUMENT", message);
  });

  it("not two draft models at load", () =>
    expectRefused(
      load({ speculation: { sources: [1, 2].map(() => ({ kind: "model", model: tiny })) } }),
      "E_BAD_ARGUMENT",
      /2 sources of the kind "model"/,
    ));
});
