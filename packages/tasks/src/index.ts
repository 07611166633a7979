export { createRng, type Rng } from "./rng.js";
export {
  formatList,
  generateSorting,
  prefixErrors,
  readPartialSorting,
  readSortingAnswer,
  readSortingCsv,
  SORTING_UNREADABLE,
  type SortingOptions,
  type SortingRow,
  type SortingState,
  sortedCopy,
  sortingErrors,
  sortingProblem,
} from "./sorting.js";
