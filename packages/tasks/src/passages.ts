/** Passages that name countries, and the counts of what they name. */
import { countNames, findCountries, PASSAGE_COUNTRIES } from "./country-names.js";
import { createRng, type Rng } from "./rng.js";

/** Country -> how often it is named. */
export type CountryCounts = Readonly<Record<string, number>>;

export interface Passage {
  readonly text: string;
  /** What a right answer says. Never holds a zero. */
  readonly counts: CountryCounts;
}

export interface PassageOptions {
  /** Sentences of the passage; 16 by default, as the paper's have 12 to 19. */
  sentences?: number;
  /** Most different countries; 10 by default. */
  countries?: number;
}

/**
 * A passage of sentences that name countries, the same for the same seed. Traps stand in it: adjectives ("Norwegian")
 * and names that hold another name ("Nigeria", "South Sudan") are no mentions of the country within.
 */
export function generatePassage(seed: number, options: PassageOptions = {}): Passage {
  const { sentences = 16, countries = 10 } = options;
  const rng = createRng(seed);
  const pool = rng.shuffle(PASSAGE_COUNTRIES).slice(0, countries);
  for (;;) {
    const passage = passageOf(Array.from({ length: sentences }, () => sentence(rng, pool)).join(" "));
    // A few sentences may hold adjectives only.
    if (Object.keys(passage.counts).length > 0) return passage;
  }
}

/** A text with the counts of the countries it names. */
export function passageOf(text: string): Passage {
  return { text, counts: Object.fromEntries(countNames(findCountries(text))) };
}

/** Sentences of a passage, as the generator writes them: each ends with a full stop. */
export function splitSentences(text: string): string[] {
  return (
    text
      .match(/[^.]+\.?/g)
      ?.map((part) => part.trim())
      .filter((part) => part !== "") ?? []
  );
}

type Country = (typeof PASSAGE_COUNTRIES)[number];

/** Sentences with two names, one of them perhaps twice, and an adjective in half of them. */
const TEMPLATES: readonly ((a: Country, b: Country, c: Country) => string)[] = [
  (a, b) => `Maria left ${a.name} in spring and reached ${b.name} before the first snow.`,
  (a, b) => `The old trade road from ${a.name} to ${b.name} was closed for years.`,
  (a, b, c) => `A ${c.adjective} engineer compared the bridges of ${a.name} with those of ${b.name}.`,
  (a, b) => `Farmers in ${a.name} sell more tea than those in ${b.name}, but ${a.name} exports less.`,
  (a, _, c) => `The ${c.adjective} team trained in ${a.name} all winter.`,
  (a, b) => `Letters between ${a.name} and ${b.name} took three weeks in those days.`,
  (a, b, c) => `In ${a.name} he met a ${c.adjective} painter who longed for ${b.name}.`,
  (a) => `Nobody knew why the train stopped so long at the border of ${a.name}.`,
  (a, b) => `Her brother studied in ${a.name}, her sister in ${b.name}.`,
  (a, b) => `When the harvest failed in ${a.name}, ships came from ${b.name} and went back to ${a.name} empty.`,
  (_, b, c) => `Two ${c.adjective} musicians crossed ${b.name} on foot.`,
  (a, b) => `The museum holds maps of ${a.name}, coins of ${b.name} and a clock nobody can date.`,
  (a, b, c) => `Prices rose in ${a.name}, fell in ${b.name}, and ${c.adjective} merchants waited.`,
  (a) => `She had always wanted to see ${a.name}, and ${a.name} did not disappoint her.`,
  (_, __, c) => `A ${c.adjective} newspaper printed the story first.`,
  (a, b) => `The match between ${a.name} and ${b.name} ended without a goal.`,
];

function sentence(rng: Rng, pool: readonly Country[]): string {
  return rng.pick(TEMPLATES)(rng.pick(pool), rng.pick(pool), rng.pick(pool));
}
