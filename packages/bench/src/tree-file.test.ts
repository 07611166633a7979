import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, it } from "vitest";
import { parseTrees, readTreeFile } from "./tree-file.js";

const tree = {
  name: "t",
  nodes: [
    { parent: -1, len: 4 },
    { parent: 0, len: 2 },
  ],
  queries: [1, 0, 1],
};

it("reads trees with queries at inner nodes", () => {
  expect(parseTrees([tree], "f")).toEqual([tree]);
});

it.each([
  [{}, /f must hold a list of trees/],
  [[], /f must hold a list of trees/],
  [[{ ...tree, name: "" }], /f: tree 0 has no name/],
  [[tree, { ...tree, name: "u", nodes: [] }], /f: tree 1, "u": nodes/],
  [[{ ...tree, queries: [] }], /tree 0, "t": queries/],
  [[{ ...tree, queries: [0, 2] }], /query 1 is at node 2; there are nodes 0 to 1/],
  [
    [
      {
        ...tree,
        nodes: [
          { parent: -1, len: 4 },
          { parent: 5, len: 2 },
        ],
      },
    ],
    /node 1 has parent 5; it must be -1 or a node, 0 to 1/,
  ],
  [
    [
      {
        ...tree,
        nodes: [
          { parent: -1, len: 4 },
          { parent: 0, len: 0 },
        ],
      },
    ],
    /node 1 has len 0/,
  ],
  [
    [
      {
        ...tree,
        nodes: [
          { parent: -1, len: 4 },
          { parent: 0, len: 1.5 },
        ],
      },
    ],
    /node 1 has len 1.5/,
  ],
  [
    [
      {
        ...tree,
        nodes: [
          { parent: 1, len: 4 },
          { parent: 0, len: 2 },
        ],
      },
    ],
    /node 0 hangs below itself/,
  ],
  [[{ ...tree, nodes: [null] }], /node 0 has parent undefined/],
  [[tree, tree], /trees 0 and 1 are both named "t"/],
])("refuses a bad file and says which tree and node: %#", (value, message) => {
  expect(() => parseTrees(value, "f")).toThrow(message);
});

it("says what is wrong with a file that is not there or not JSON", async () => {
  const folder = mkdtempSync(join(tmpdir(), "deftree-"));
  const missing = join(folder, "missing.json");
  await expect(readTreeFile(missing)).rejects.toMatchObject({
    code: "E_BAD_ARGUMENT",
    message: expect.stringContaining(missing),
  });
  const broken = join(folder, "broken.json");
  writeFileSync(broken, "[{");
  await expect(readTreeFile(broken)).rejects.toMatchObject({
    code: "E_BAD_ARGUMENT",
    message: expect.stringContaining("is not JSON"),
  });
});
