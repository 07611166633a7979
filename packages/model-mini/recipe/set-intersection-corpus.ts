/** What mini reads of set intersection: pairs of sets, whole or a part of the second, lists to join, wrong answers to correct. */
import {
  createRng,
  formatList,
  generateSetPair,
  intersectionInSteps,
  intersectionOf,
  type Rng,
  type SetPair,
  setIntersectionProblem,
} from "@deftree/tasks";
import {
  ALL_SIZES,
  chance,
  drawMistakes,
  drawSeed,
  drawSize,
  type Example,
  forSeeds,
  type Recipe,
  weighted,
} from "./example.js";

export const setIntersectionRecipe: Recipe = {
  weight: 40,
  draw(rng, { sets }) {
    const kind = weighted(rng, [
      [35, intersecting],
      [25, improving],
      [15, intersectingPart],
      [10, joining],
      [15, intersectingInSteps],
    ]);
    const isPart = kind === intersectingPart || kind === joining;
    return kind(generateSetPair(drawSize(rng, isPart ? ALL_SIZES : sets), drawSeed(rng)), rng);
  },
  problems: (count) => ({
    ...bySize("set", [16, 32, 48, 64, 96, 128], count, intersecting),
    ...bySize("set-steps", [32, 64, 128], count, intersectingInSteps),
    ...bySize("set-improve", [32, 64, 128], count, improving),
    ...bySize("set-part", [32, 64, 128], count, (pair) => intersecting(partOf(pair, 16))),
    ...bySize("set-join", [32, 64, 128], count, (pair) => join(pair, pair.second.length / 2)),
  }),
};

function bySize(
  name: string,
  sizes: readonly number[],
  count: number,
  kind: (pair: SetPair, rng: Rng) => Example,
): Record<string, Example[]> {
  const examples = (size: number) =>
    forSeeds(count, (seed) => kind(generateSetPair(size, seed), createRng(seed + 1_000_000)));
  return Object.fromEntries(sizes.map((size) => [`${name}-${size}`, examples(size)]));
}

/**
 * In the order of the second set, as the answers in steps have them too: when a causal model reads that set, it has read
 * the first, and can tell for each number whether it is common. (In any order the answer is right.)
 */
function commonNumbers({ first, second }: SetPair): number[] {
  return intersectionOf({ first: second, second: first });
}

function intersecting(pair: SetPair): Example {
  return { prompt: setIntersectionProblem(pair).prompt(), answer: formatList(commonNumbers(pair)) };
}

function intersectingInSteps(pair: SetPair): Example {
  const prompt = setIntersectionProblem(pair, { style: "chain-of-thought" }).prompt();
  return { prompt, answer: intersectionInSteps(pair) };
}

/** As graph of thoughts splits the second set: mostly parts of 16, or a half, a quarter or an eighth. */
function intersectingPart(pair: SetPair, rng: Rng): Example {
  const size = chance(rng, 60) ? 16 : Math.ceil(pair.second.length / rng.pick([2, 4, 8]));
  return intersecting(partOf(pair, size));
}

function partOf(pair: SetPair, size: number): SetPair {
  return { first: pair.first, second: pair.second.slice(0, size) };
}

function joining(pair: SetPair, rng: Rng): Example {
  const half = pair.second.length / 2;
  return join(pair, chance(rng, 60) ? half : rng.int(1, pair.second.length - 1));
}

/** What is common with the second set's first numbers, and with the others. */
function join(pair: SetPair, middle: number): Example {
  const parts = [pair.second.slice(0, middle), pair.second.slice(middle)];
  const [first, second] = parts.map((part) => commonNumbers({ first: pair.first, second: part }));
  const states = [first!, second!].map((numbers) => ({ numbers, complete: true }));
  const joined = setIntersectionProblem(pair).split!(2).merge(0, 1, 2, states[0]!, states[1]!);
  return { prompt: joined.prompt(), answer: formatList([...first!, ...second!]) };
}

function improving(pair: SetPair, rng: Rng): Example {
  const numbers = withMistakes(pair, rng);
  const prompt = setIntersectionProblem(pair).improvePrompt!({ numbers, complete: true });
  return { prompt, answer: formatList(commonNumbers(pair)) };
}

/** The mistakes a model makes: a number missing, one that only one of the sets has, a repetition, an early end. */
function withMistakes(pair: SetPair, rng: Rng): number[] {
  const numbers = commonNumbers(pair);
  const common = new Set(numbers);
  if (chance(rng, 3)) return numbers.slice(0, rng.int(1, numbers.length));
  for (let edits = drawMistakes(rng); edits > 0; edits--) {
    const at = rng.int(0, numbers.length);
    const kind = rng.int(1, 100);
    if (kind <= 60 && numbers.length > 1) numbers.splice(at, 1);
    else if (kind <= 95) numbers.splice(at, 0, oneOfOneSet(pair, common, rng));
    else numbers.splice(at, 0, rng.pick(numbers));
  }
  return numbers;
}

function oneOfOneSet({ first, second }: SetPair, common: ReadonlySet<number>, rng: Rng): number {
  for (;;) {
    const number = rng.pick(chance(rng, 70) ? first : second);
    if (!common.has(number) || chance(rng, 2)) return number;
  }
}
