import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Engine } from "@deftree/engine";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { benchAttentionTrees } from "./attention.js";
import { benchDecode, summarize } from "./decode.js";
import { percentile } from "./machine.js";
import { replayTree } from "./replay.js";
import { type ReplayTree, replaySchedule } from "./replay-tree.js";
import { verifyDrafts } from "./verify-drafts.js";
import type { Workload } from "./workloads.js";

const model = "random:tiny";
const onCpu = { device: "cpu", threads: 1 } as const;

/** Four children, one of which goes on to three; another has no tokens. */
const tree: ReplayTree = {
  name: "small",
  nodes: [
    { tokens: 40, start: -39, end: 0, children: [1, 2, 3, 4] },
    { tokens: 5, start: 1, end: 5, children: [] },
    { tokens: 7, start: 1, end: 7, children: [5, 6, 7] },
    { tokens: 0, start: 1, end: 0, children: [] },
    { tokens: 12, start: 1, end: 12, children: [] },
    { tokens: 4, start: 8, end: 11, children: [] },
    { tokens: 1, start: 8, end: 8, children: [] },
    { tokens: 6, start: 8, end: 13, children: [] },
  ],
};

describe("a replay", () => {
  let engine: Engine;
  beforeAll(async () => {
    engine = await Engine.load(model, onCpu);
  });
  afterAll(() => engine.dispose());

  it.each([
    { first: 1, last: 13 },
    { first: 6, last: 10 },
    { first: 8, last: 13 },
  ])("gives each step of $first to $last the recorded branches", async (range) => {
    const { liveBranches } = replaySchedule(tree, range);
    const { generatedTokens, stepMs, raggedSteps } = await replayTree(engine, tree, { range });
    expect(generatedTokens).toBe(liveBranches.reduce((sum, live) => sum + live));
    expect(stepMs).toHaveLength(liveBranches.length - 1);
    // From the prompt on, all hangs on one gate.
    if (range.first === 1) expect(raggedSteps).toBe(0);
    // Each step ended after the one before.
    if (raggedSteps === 0) expect(Math.min(...stepMs)).toBeGreaterThan(0);
    await engine.checkInvariants();
    expect(engine.stats().branches).toBe(0);
  });

  it("of concurrent equal prompts computes the prompt once", async () => {
    const before = engine.stats().prefilledTokens;
    const star = { ...tree, nodes: [{ ...tree.nodes[0]!, children: [1, 2] }, tree.nodes[1]!, tree.nodes[1]!] };
    const { generatedTokens } = await replayTree(engine, star, { range: { first: 1, last: 5 }, samePrompt: true });
    expect(generatedTokens).toBe(10);
    expect(engine.stats().prefilledTokens - before).toBe(40);
  });

  it("verifies all drafts of a tree in one step", async () => {
    const parents = [-1, -1, 0, 0, 2];
    const before = engine.stats().decodedTokens;
    const { generatedTokens, stepMs, raggedSteps, after } = await verifyDrafts(engine, {
      promptTokens: 30,
      parents,
      steps: 6,
    });
    expect(generatedTokens).toBe(5 * 6);
    expect(raggedSteps).toBe(0);
    expect(stepMs).toHaveLength(5);
    expect(after.decodedTokens - before).toBeGreaterThanOrEqual(5 * 6);
    await engine.checkInvariants();
    expect(engine.stats().branches).toBe(0);
  });

  it("ends with what was measured when it is aborted", async () => {
    const interrupt = new AbortController();
    const long: ReplayTree = {
      name: "long",
      nodes: [
        { tokens: 20, start: -19, end: 0, children: [1, 2] },
        { tokens: 900, start: 1, end: 900, children: [] },
        { tokens: 900, start: 1, end: 900, children: [] },
      ],
    };
    setTimeout(() => interrupt.abort(), 30);
    const { stepMs } = await replayTree(engine, long, { range: { first: 1, last: 900 }, signal: interrupt.signal });
    expect(stepMs.length).toBeLessThan(899);
    await engine.checkInvariants();
  });
});

describe("benchDecode", () => {
  it("reports a row for each width", async () => {
    const result = await benchDecode({
      ...onCpu,
      model,
      workload: "few-shot",
      promptTokens: 64,
      widths: [1, 3],
      steps: 9,
    });
    expect(result.rows.map(({ workload, steps, branches }) => [workload, steps, branches])).toEqual([
      ["few-shot 1", 8, 1],
      ["few-shot 3", 8, 3],
    ]);
    const row = result.rows[1]!;
    expect(row.generatedTokens).toBe(27);
    expect(row.ttftMs).toBeGreaterThan(0);
    expect(row.kvBytesUnshared).toBeGreaterThan(row.kvBytesUnique);
    expect(row.tpotMs * 3 * 8).toBeCloseTo(row.decodeMs, 6);
    expect(row.parts?.attentionMs).toBeGreaterThan(0);
  });

  it("replays a recorded tree from a folder", async () => {
    const templates = mkdtempSync(join(tmpdir(), "deftree-"));
    const nodes = tree.nodes.map(({ tokens, start, end, children }) => [tokens, start, end, children]);
    writeFileSync(join(templates, "set128ToT.json"), JSON.stringify({ trees: [nodes] }));
    const { rows } = await benchDecode({ ...onCpu, model, workload: "set128", templates, attention: "flash-decoding" });
    expect(rows).toMatchObject([{ workload: "set128 0", promptTokens: 40, steps: 12, generatedTokens: 35 }]);
  });

  it("refuses what does not fit into the context, with the figures", async () => {
    const wanted = benchDecode({ ...onCpu, model, workload: "few-shot", promptTokens: 2000 });
    await expect(wanted).rejects.toMatchObject({ code: "E_BAD_ARGUMENT", figures: { contextLength: 1024 } });
  });
});

it("sets a step beside the bytes that it has to read", () => {
  const workload: Workload = {
    kind: "drafts",
    label: "d",
    promptTokens: 90,
    parents: new Array(10).fill(-1),
    steps: 3,
  };
  const stats = { steps: 0, stepNs: 0, overheadNs: 0, linearNs: 0, kvBytesRead: 0, kvBytesUnshared: 0, maskBytes: 0 };
  const before = stats as never;
  const after = { ...stats, steps: 2, stepNs: 200, overheadNs: 20, kvBytesRead: 600 } as never;
  const replay = { ttftMs: 1, stepMs: [3, 5], raggedSteps: 0, generatedTokens: 30, before, after };
  const row = summarize(workload, replay, { stepWeightBytes: 1e6, kvBytesPerToken: 1e4 }, 1e9);
  // 1 MB of weights and 100 tokens of 10 kB at 1 GB/s.
  expect(row.floorMs).toBeCloseTo(2, 12);
  expect(row.timesFloor).toBeCloseTo(2, 12);
  expect(row.tpotMs).toBeCloseTo(8 / 20, 12);
  expect(row.kvBytesRead).toBe(300);
  expect(row.overheadPercent).toBe(10);
  expect(row.parts).toBeUndefined();
});

it("takes the percentile that no smaller value reaches", () => {
  const hundred = Array.from({ length: 100 }, (_, i) => 100 - i);
  expect(percentile(hundred, 99)).toBe(99);
  expect(percentile([4], 99)).toBe(4);
});

it("measures attention on trees, by policy", async () => {
  const trees = [
    {
      name: "star",
      nodes: [
        { parent: -1, len: 300 },
        { parent: 0, len: 20 },
        { parent: 0, len: 20 },
      ],
      queries: [0, 1, 2],
    },
  ];
  const options = {
    trees,
    device: "cpu",
    layers: 2,
    heads: { qo: 4, kv: 2 },
    headDim: 64,
    rounds: 2,
    threads: 1,
  } as const;
  const seen: string[] = [];
  const { rows, timesFloorStar } = await benchAttentionTrees({
    ...options,
    policies: ["deft-flatten", "radix"],
    onTree: (name) => seen.push(name),
  });
  expect(seen).toEqual(["star"]);
  expect(rows.map(({ policy }) => policy)).toEqual(["deft-flatten", "radix"]);
  const [flatten, radix] = rows;
  const tokenBytes = 2 * 2 * 2 * 64 * 2;
  expect(flatten).toMatchObject({ queries: 3, kvBytesRead: 340 * tokenBytes, kvBytesSaved: 600 * tokenBytes });
  expect(radix).toMatchObject({ kvBytesRead: 940 * tokenBytes, kvBytesSaved: 0 });
  for (const row of rows) {
    expect(row.maxError).toBeLessThan(1e-5);
    expect(row.floorFraction * row.ms).toBeCloseTo(row.floorMs, 9);
  }
  expect(timesFloorStar[0]!.ratio).toBeCloseTo(flatten!.ms / flatten!.floorStarMs, 9);
  const bad = benchAttentionTrees({ ...options, policies: ["radix"], heads: { qo: 4, kv: 3 } });
  await expect(bad).rejects.toMatchObject({ code: "E_BAD_ARGUMENT" });
});
