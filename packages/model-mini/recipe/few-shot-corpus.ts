/** What mini reads of few-shot prompting: examples of a rule and one more input, wrong outputs to correct. */
import { createRng, type FewShotItem, fewShotInSteps, fewShotProblem, generateFewShot, type Rng } from "@deftree/tasks";
import { chance, drawSeed, type Example, forSeeds, type Recipe, weighted } from "./example.js";

export const fewShotRecipe: Recipe = {
  weight: 14,
  draw(rng) {
    const shots = weighted(rng, [
      [60, 8],
      [25, rng.int(2, 16)],
      [13, 32],
      [2, 128],
    ]);
    const kind = weighted(rng, [
      [60, answering],
      [25, improving],
      [15, answeringInSteps],
    ]);
    return kind(generateFewShot(shots, drawSeed(rng)), rng);
  },
  problems: (count) => ({
    "few-shot-8": forSeeds(count, (seed) => answering(generateFewShot(8, seed))),
    "few-shot-32": forSeeds(count, (seed) => answering(generateFewShot(32, seed))),
    "few-shot-128": forSeeds(Math.ceil(count / 4), (seed) => answering(generateFewShot(128, seed))),
    "few-shot-steps-8": forSeeds(count, (seed) => answeringInSteps(generateFewShot(8, seed))),
    "few-shot-improve-8": forSeeds(count, (seed) => improving(generateFewShot(8, seed), createRng(seed + 1_000_000))),
  }),
};

function answering(item: FewShotItem): Example {
  return { prompt: fewShotProblem(item).prompt(), answer: item.output };
}

function answeringInSteps(item: FewShotItem): Example {
  return { prompt: fewShotProblem(item, { style: "chain-of-thought" }).prompt(), answer: fewShotInSteps(item)! };
}

function improving(item: FewShotItem, rng: Rng): Example {
  const output = withMistakes(item.output, rng);
  return { prompt: fewShotProblem(item).improvePrompt!({ output, complete: true }), answer: item.output };
}

/** The mistakes a model makes: another digit, one too few, one too many. */
function withMistakes(output: string, rng: Rng): string {
  const words = output.split(" ");
  for (let edits = rng.pick([1, 1, 2, 3]); edits > 0; edits--) {
    const at = rng.int(0, words.length - 1);
    const kind = rng.int(1, 100);
    if (kind <= 60) words[at] = String(rng.int(0, 9));
    else if (chance(rng, 50) && words.length > 1) words.splice(at, 1);
    else words.splice(at, 0, words[at]!);
  }
  return words.join(" ");
}
