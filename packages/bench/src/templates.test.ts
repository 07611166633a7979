import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, it } from "vitest";
import { parseNodes, parseTokenTree, readRecordedTree, readTokenTree } from "./templates.js";
import { makeWorkloads } from "./workloads.js";

const nodes = [
  [4, -3, 0, [1, 2]],
  [2, 1, 2, [3]],
  [0, 1, 0, []],
  [1, 3, 3, []],
];

it("reads recorded nodes, those without tokens included", () => {
  expect(parseNodes(nodes, "t")).toEqual([
    { tokens: 4, start: -3, end: 0, children: [1, 2] },
    { tokens: 2, start: 1, end: 2, children: [3] },
    { tokens: 0, start: 1, end: 0, children: [] },
    { tokens: 1, start: 3, end: 3, children: [] },
  ]);
});

it.each([
  [[nodes[0]], /a prompt and thoughts/],
  [
    [
      [4, -3, 0, [1]],
      [2, 1, 3, []],
    ],
    /node 1 has 2 tokens but steps 1 to 3/,
  ],
  [
    [
      [4, -3, 0, [1]],
      [2, 2, 3, []],
    ],
    /node 1 starts at step 2, its parent 0 ends at 0/,
  ],
  [
    [
      [4, -3, 0, [7]],
      [2, 1, 2, []],
    ],
    /node 0 has the child 7/,
  ],
  [
    [
      [4, -3, 0, []],
      [2, 1, 2, []],
    ],
    /node 1 has no parent/,
  ],
  [
    [
      [4, -3, 0, [1, 1]],
      [2, 1, 2, []],
    ],
    /node 1 has two parents/,
  ],
  [
    [
      [4, 1, 4, [1]],
      [2, 5, 6, []],
    ],
    /node 0 must be a prompt/,
  ],
  [[[4, -3, 0, [1]], "x"], /node 1 must be \[tokens/],
])("refuses what no run can be: %#", (value, message) => {
  expect(() => parseNodes(value, "t")).toThrow(message);
});

it("turns paths of child numbers into parents", () => {
  expect(parseTokenTree([[0], [1], [0, 0], [0, 1], [0, 1, 0]], "t")).toEqual([-1, -1, 0, 0, 3]);
  expect(() => parseTokenTree([[0], [1, 0]], "t")).toThrow(/entry 1 hangs below \[1\]/);
});

it("finds its files in a folder and says what it has", async () => {
  const folder = mkdtempSync(join(tmpdir(), "deftree-"));
  writeFileSync(join(folder, "keywordToT.json"), JSON.stringify({ trees: [nodes] }));
  writeFileSync(join(folder, "medusa.json"), JSON.stringify({ topologies: { 2: [[0], [0, 0]] } }));
  expect((await readRecordedTree(folder, "keyword", 0)).nodes).toHaveLength(4);
  await expect(readRecordedTree(folder, "keyword", 1)).rejects.toThrow(/trees 0 to 0/);
  await expect(readRecordedTree(folder, "set128", 0)).rejects.toThrow(/set128ToT.json cannot be read/);
  expect(await readTokenTree(folder, 2)).toEqual([-1, 0]);
  await expect(readTokenTree(folder, 3)).rejects.toThrow(/no topology "3"; it has 2/);
});

it("runs what needs no data without templates and says what is missing", async () => {
  const { workloads, notice } = await makeWorkloads({ workload: "medusa-8" });
  expect(workloads).toMatchObject([{ kind: "drafts", parents: new Array(8).fill(-1) }]);
  expect(notice).toMatch(/medusa.json/);
  expect((await makeWorkloads({ workload: "few-shot", widths: [2, 3] })).workloads).toHaveLength(2);
  await expect(makeWorkloads({ workload: "sorting128" })).rejects.toThrow(/sorting128ToT.json/);
  await expect(makeWorkloads({ workload: "sort" })).rejects.toThrow(/few-shot, same-prompt/);
  await expect(makeWorkloads({ workload: "thoughts", firstStep: 500 })).rejects.toThrow(/ends at step 96/);
});
