import { expect, it } from "vitest";
import { ScriptedModel } from "../test/scripted-model.js";
import { BranchAccount } from "./branch-account.js";

const open = (text: string) => new ScriptedModel({ errorRate: 0 }).open([{ role: "user", content: text }]);

it("counts what branches share once, for as long as one of them needs it", async () => {
  const account = new BranchAccount();
  const root = await open("3210");
  account.add(root);
  expect(account.heldTokens).toBe(4);
  const [first, second] = root.fork(2);
  for (const child of [first!, second!]) account.add(child, root);
  expect(account.heldTokens).toBe(4);
  await first!.extend("01");
  await second!.extend("012");
  expect(account.heldTokens).toBe(4 + 2 + 3);
  const [grandchild] = first!.fork(1);
  account.add(grandchild!, first!);
  await grandchild!.extend("2");
  for (const closed of [root, first!]) account.release(closed);
  expect(account.heldTokens).toBe(4 + 2 + 3 + 1);
  expect(account.openBranches).toBe(2);
  account.release(second!);
  expect(account.heldTokens).toBe(4 + 2 + 1);
  account.release(grandchild!);
  account.release(grandchild!);
  expect(account.heldTokens).toBe(0);
  expect(account.openBranches).toBe(0);
});

it("reserves what a decode may still take, and books what it took", async () => {
  const account = new BranchAccount();
  const branch = await open("3210");
  account.add(branch);
  const giveBack = account.reserve(branch, 10);
  expect(account.reservedTokens).toBe(10);
  await branch.decode({ maxTokens: 3 });
  expect(account.reservedTokens).toBe(7);
  giveBack();
  giveBack();
  expect(account.reservedTokens).toBe(0);
  account.releaseAll();
  expect(account.usage()).toEqual({ generatedTokens: 3, promptTokens: 4, prefilledTokens: 4 });
});
