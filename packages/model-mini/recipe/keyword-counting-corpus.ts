/** What mini reads of keyword counting: passages and parts of them to count, at once or in steps, counts to add, wrong ones to correct. */
import {
  type CountryCounts,
  chainOfThought,
  createRng,
  formatCounts,
  generatePassage,
  keywordCountingProblem,
  type Passage,
  passageOf,
  type Rng,
  splitSentences,
} from "@deftree/tasks";
import { chance, drawMistakes, drawSeed, type Example, forSeeds, type Recipe, weighted } from "./example.js";

export const keywordCountingRecipe: Recipe = {
  weight: 24,
  draw(rng) {
    const kind = weighted(rng, [
      [30, counting],
      [25, countingInSteps],
      [25, improving],
      [20, adding],
    ]);
    const passage = generatePassage(drawSeed(rng), { sentences: drawSentences(rng) });
    if (kind === counting && chance(rng, 15)) return countingSentence(passage, rng);
    return kind(passage, rng);
  },
  problems: (count) => ({
    "keywords-4": forSeeds(count, (seed) => counting(passageOfSize(4, seed))),
    "keywords-8": forSeeds(count, (seed) => counting(passageOfSize(8, seed))),
    "keywords-16": forSeeds(count, (seed) => counting(passageOfSize(16, seed))),
    "keywords-steps-16": forSeeds(count, (seed) => countingInSteps(passageOfSize(16, seed))),
    "keywords-improve-16": forSeeds(count, (seed) => improving(passageOfSize(16, seed), createRng(seed + 1_000_000))),
    "keywords-add-8": forSeeds(count, (seed) => addHalves(passageOfSize(8, seed), 0.5)),
    "keywords-add-16": forSeeds(count, (seed) => addHalves(passageOfSize(16, seed), 0.5)),
  }),
};

function passageOfSize(sentences: number, seed: number): Passage {
  return generatePassage(seed, { sentences });
}

/** Whole passages as the task has them, and parts as graphs of thoughts ask for. */
function drawSentences(rng: Rng): number {
  return chance(rng, 50) ? rng.pick([16, 16, rng.int(12, 19)]) : rng.pick([1, 2, 2, 3, 4, 4, 5, 6, 8, 8, 10]);
}

function counting(passage: Passage): Example {
  return { prompt: keywordCountingProblem(passage).prompt(), answer: formatCounts(passage.counts) };
}

/** One sentence of a passage, which may name no country. */
function countingSentence(passage: Passage, rng: Rng): Example {
  const sentences = splitSentences(passage.text);
  const at = rng.int(0, sentences.length - 1);
  const part = keywordCountingProblem(passage).split!(sentences.length).parts[at]!;
  return { prompt: part.prompt(), answer: formatCounts(passageOf(sentences[at]!).counts) };
}

function countingInSteps(passage: Passage): Example {
  const prompt = keywordCountingProblem(passage, { style: "chain-of-thought" }).prompt();
  return { prompt, answer: chainOfThought(passage) };
}

function improving(passage: Passage, rng: Rng): Example {
  const counts = withMistakes(passage, rng);
  const prompt = keywordCountingProblem(passage).improvePrompt!({ counts, complete: true });
  return { prompt, answer: formatCounts(passage.counts) };
}

function adding(passage: Passage, rng: Rng): Example {
  return addHalves(passage, chance(rng, 60) ? 0.5 : rng.int(1, 9) / 10);
}

/** The counts of the passage's first sentences, and of the others. A sum lists the first object's countries first. */
function addHalves(passage: Passage, share: number): Example {
  const sentences = splitSentences(passage.text);
  if (sentences.length === 1) return addHalves(passageOf(`${passage.text} ${passage.text}`), share);
  const middle = Math.round(share * sentences.length);
  const [first, second] = [sentences.slice(0, middle), sentences.slice(middle)].map(
    (part) => passageOf(part.join(" ")).counts,
  ) as [CountryCounts, CountryCounts];
  const states = [first, second].map((counts) => ({ counts, complete: true }));
  const prompt = keywordCountingProblem(passage).split!(2).merge(0, 1, 2, states[0]!, states[1]!).prompt();
  return { prompt, answer: formatCounts(passage.counts) };
}

/** The mistakes a model makes: a count off by one, a country missing, one that the passage only alludes to. */
function withMistakes(passage: Passage, rng: Rng): CountryCounts {
  const entries = Object.entries(passage.counts);
  for (let edits = drawMistakes(rng); edits > 0; edits--) {
    const at = rng.int(0, entries.length - 1);
    const [name, count] = entries[at]!;
    const kind = rng.int(1, 100);
    if (kind <= 70) entries[at] = [name, Math.max(1, count + rng.pick([-1, 1]))];
    else if (kind <= 90 && entries.length > 1) entries.splice(at, 1);
    else entries.splice(at, 0, [anyCountry(rng), 1]);
  }
  return Object.fromEntries(entries);
}

function anyCountry(rng: Rng): string {
  return rng.pick(Object.keys(generatePassage(drawSeed(rng), { sentences: 1 }).counts));
}
