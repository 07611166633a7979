export { formatList, type NumberListState, readNumberList, readPartialNumberList, sortedCopy } from "./number-list.js";
export { createRng, type Rng } from "./rng.js";
export {
  generateSetPair,
  intersectionOf,
  readSetIntersectionCsv,
  SET_INTERSECTION_UNREADABLE,
  type SetIntersectionOptions,
  type SetIntersectionRow,
  type SetPair,
  setIntersectionErrors,
  setIntersectionProblem,
} from "./set-intersection.js";
export {
  generateSorting,
  prefixErrors,
  readSortingCsv,
  SORTING_UNREADABLE,
  type SortingOptions,
  type SortingRow,
  sortingErrors,
  sortingProblem,
} from "./sorting.js";
