/** The tasks of mini's training. An example comes from each in proportion to its weight. */
import type { Recipe } from "./example.js";
import { fewShotRecipe } from "./few-shot-corpus.js";
import { keywordCountingRecipe } from "./keyword-counting-corpus.js";
import { setIntersectionRecipe } from "./set-intersection-corpus.js";
import { sortingRecipe } from "./sorting-corpus.js";

export const RECIPES: readonly Recipe[] = [sortingRecipe, setIntersectionRecipe, keywordCountingRecipe, fewShotRecipe];
