import { describe, expect, it } from "vitest";
import { keywordCountingProblem, passageOf, setIntersectionProblem } from "./index.js";
import { passedOver } from "./passed-over.js";

describe("passedOver", () => {
  it.each([
    [[], 0],
    [[5], 0],
    [[5, 3], 0],
    [[3], 1],
    [[5, 9], 1],
    [[8], 3],
    [[5, 7, 9], 1],
    [[3, 5], 0],
    [[5, 5, 9], 0],
  ])("of 5, 3, 9, 8 in %j is %i", (written, count) => {
    expect(passedOver([[5, 3, 9, 8]], written)).toBe(count);
  });

  it.each([
    [[3], 1],
    [[8], 0],
    [[8, 9], 2],
    [[3, 9], 1],
    [[8, 5, 9], 1],
    [[9, 5], 0],
  ])("of 5, 3, 9, 8 or 8, 3, 5, 9 in %j is %i", (written, count) => {
    expect(
      passedOver(
        [
          [5, 3, 9, 8],
          [8, 3, 5, 9],
        ],
        written,
      ),
    ).toBe(count);
  });
});

it("tells beginnings of an intersection apart, and gives none up for it", () => {
  const problem = setIntersectionProblem({ first: [4, 1, 7, 2], second: [4, 7, 9, 2] });
  const [whole, short, wrong] = ["[4, 7, 2", "[4, 2, ", "[4, 1,"].map((text) => problem.readPartial(text, false));
  expect([whole, short, wrong].map((state) => problem.score(state!))).toEqual([0, -1, -1]);
  expect([whole, short, wrong].map((state) => problem.hopeless!(state!))).toEqual([false, false, true]);
});

it("tells beginnings of an intersection apart that go through the second set", () => {
  const problem = setIntersectionProblem({ first: [1, 2, 3, 4, 5], second: [5, 4, 3, 2, 1] });
  const scores = ["[5, 4, 3, ", "[5, 3, ", "[1, 2, ", "[1, 3, "].map((text) =>
    problem.score(problem.readPartial(text, false)),
  );
  expect(scores).toEqual([0, -1, 0, -1]);
});

it("tells beginnings of a count apart", () => {
  const problem = keywordCountingProblem(passageOf("Peru and Cuba. Then Chad."));
  const partial = (text: string) => problem.readPartial(text, false);
  expect(problem.score(partial('{"Peru": 1, "Cuba": 1, '))).toBe(0);
  expect(problem.score(partial('{"Peru": 1, "Chad": 1, '))).toBe(-1);
  expect(problem.hopeless!(partial('{"Peru": 1, "Chad": 1, '))).toBe(false);
});
