import { expect, it } from "vitest";
import { checkBudget, grant } from "./budget.js";

const none = { tokens: 0, thoughts: 0, nodes: 0, kvBytes: 0, kvBytesPerToken: 0 };

it("grants all that is wanted without a budget", () => {
  expect(grant({}, none, 20, 100)).toEqual({ count: 20, maxTokens: 100 });
});

it("reserves the most tokens that each thought can take", () => {
  expect(grant({ tokens: 350 }, none, 20, 100)).toEqual({ count: 3, maxTokens: 100 });
  expect(grant({ tokens: 350 }, { ...none, tokens: 150, thoughts: 3 }, 20, 100)).toEqual({ count: 2, maxTokens: 100 });
});

it("lets one shorter thought use up the rest", () => {
  expect(grant({ tokens: 350 }, { ...none, tokens: 300, thoughts: 3 }, 20, 100)).toEqual({ count: 1, maxTokens: 50 });
});

it("says which budget is used up", () => {
  expect(grant({ tokens: 5, thoughts: 9 }, { ...none, tokens: 5, thoughts: 2 }, 1, 4)).toEqual({
    budget: "tokens",
    limit: 5,
    used: 5,
  });
  expect(grant({ thoughts: 2 }, { ...none, tokens: 5, thoughts: 2 }, 1, 4)).toEqual({
    budget: "thoughts",
    limit: 2,
    used: 2,
  });
});

it.each([0, -1, Number.NaN])("refuses a limit of %d", (limit) => {
  expect(() => checkBudget({ thoughts: limit })).toThrow("budget.thoughts must be a positive number");
});

it("grants as many as find room", () => {
  expect(grant({ nodes: 5 }, { ...none, nodes: 3 }, 9, 10)).toEqual({ count: 2, maxTokens: 10 });
  expect(grant({ nodes: 5 }, { ...none, nodes: 5 }, 9, 10)).toEqual({ budget: "nodes", limit: 5, used: 5 });
  const use = { ...none, kvBytes: 400, kvBytesPerToken: 4 };
  expect(grant({ kvBytes: 500 }, use, 9, 10)).toEqual({ count: 2, maxTokens: 10 });
  expect(grant({ kvBytes: 439 }, use, 9, 10)).toEqual({ budget: "kvBytes", limit: 439, used: 400 });
});
