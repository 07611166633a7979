import { type AnswerMemory, LazyModel } from "./lazy-branch.js";
import type { ThoughtModel } from "./thought-model.js";

/**
 * "Paper mode": a model that answers a prompt it has seen before with the answers it gave then, sample by sample, whatever
 * the seed, at no cost. Graph of Thoughts' published runs had such a cache, by which a Tree of Thoughts whose best answer
 * does not change asks the same prompt again and stalls. Use one for each problem; without it samples are fresh.
 */
export function cachedAnswers(model: ThoughtModel): ThoughtModel {
  const memory: AnswerMemory = new Map();
  return new LazyModel(model, memory);
}
