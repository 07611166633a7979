export { countNames, findCountries } from "./country-names.js";
export {
  type DocumentMergingOptions,
  type DocumentMergingRow,
  type DocumentMergingState,
  type DocumentSet,
  type DocumentSetOptions,
  documentMergingProblem,
  generateDocumentSet,
  judgePrompt,
  type MergeMarks,
  markMerge,
  mergeScore,
  readDocumentMergingCsv,
  readJudgement,
} from "./document-merging.js";
export {
  FEW_SHOT_UNREADABLE,
  type FewShotExample,
  type FewShotItem,
  type FewShotOptions,
  type FewShotState,
  fewShotErrors,
  fewShotInSteps,
  fewShotProblem,
  generateFewShot,
} from "./few-shot.js";
export {
  chainOfThought,
  formatCounts,
  KEYWORD_COUNTING_UNREADABLE,
  type KeywordCountingOptions,
  type KeywordCountingRow,
  type KeywordCountingState,
  keywordCountingErrors,
  keywordCountingProblem,
  readKeywordCountingCsv,
} from "./keyword-counting.js";
export {
  METHODS,
  type Method,
  type MethodName,
  type MethodOptions,
  type MethodParameters,
  methodFor,
  methodNames,
} from "./methods.js";
export { formatList, type NumberListState, readNumberList, readPartialNumberList, sortedCopy } from "./number-list.js";
export {
  type CountryCounts,
  generatePassage,
  type Passage,
  type PassageOptions,
  passageOf,
  splitSentences,
} from "./passages.js";
export type { DataFormat, TaskRow } from "./records.js";
export { createRng, type Rng } from "./rng.js";
export {
  generateSetPair,
  intersectionInSteps,
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
  sortingInSteps,
  sortingProblem,
} from "./sorting.js";
export { type AnyTask, answerErrors, TASKS, type Task, type TaskName, type TaskOptions } from "./task.js";
