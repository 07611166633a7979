import { DeftreeError } from "@deftree/engine";
import { levelTree, numSteps, type ReplayTree, type StepRange, starTree, withPrompt } from "./replay-tree.js";
import {
  type RecordedWorkload,
  readRecordedTree,
  readTokenTree,
  recordedWorkloads,
  templateLayout,
} from "./templates.js";

export interface WorkloadOptions {
  /** `few-shot`, `same-prompt`, `thoughts`, a recorded tree's name, or `medusa-N`. */
  workload: string;
  /** By default 512, and for recorded trees the recorded length. */
  promptTokens?: number;
  /** Branches, one row each; thoughts a level. */
  widths?: readonly number[];
  /** Steps to measure; for `thoughts` tokens of a thought. */
  steps?: number;
  /** Begins in the middle of a run, with the tree of that step. */
  firstStep?: number;
  /** Which recorded tree. */
  tree?: number;
  /** Folder of the recorded shapes. */
  templates?: string;
}

/** One row of the benchmark. */
export type Workload =
  | { kind: "replay"; label: string; tree: ReplayTree; range: StepRange; samePrompt: boolean }
  | { kind: "drafts"; label: string; promptTokens: number; parents: number[]; steps: number };

const defaultPromptTokens = 512;
const defaultSteps = 32;
const thoughtLevels = 3;

/** Names for help texts; `medusa-N` for any N. */
export const workloadNames = ["few-shot", "same-prompt", "thoughts", ...Object.keys(recordedWorkloads), "medusa-64"];

/**
 * @returns the rows to measure, and what could not be measured.
 * @throws E_BAD_ARGUMENT for an unknown workload and for templates that are missing or wrong.
 */
export async function makeWorkloads(options: WorkloadOptions): Promise<{ workloads: Workload[]; notice?: string }> {
  const { workload, promptTokens = defaultPromptTokens, steps = defaultSteps, firstStep = 1 } = options;
  const medusa = /^medusa-([1-9]\d{0,3})$/.exec(workload);
  if (medusa) return makeDrafts(options, Number(medusa[1]));
  if (workload in recordedWorkloads) return { workloads: [await makeRecorded(options, workload as RecordedWorkload)] };
  const replay = (label: string, tree: ReplayTree, samePrompt = false): Workload => ({
    kind: "replay",
    label,
    tree,
    range: checkedRange(tree, firstStep, numSteps(tree)),
    samePrompt,
  });
  switch (workload) {
    case "few-shot":
    case "same-prompt":
      return {
        workloads: (options.widths ?? [1, 4, 16]).map((width) =>
          replay(
            `${workload} ${width}`,
            starTree(promptTokens, width, firstStep - 1 + steps),
            workload === "same-prompt",
          ),
        ),
      };
    case "thoughts":
      return {
        workloads: (options.widths ?? [10]).map((width) =>
          replay(`${thoughtLevels} levels of ${width}`, levelTree(promptTokens, width, thoughtLevels, steps)),
        ),
      };
    default:
      throw new DeftreeError(
        "E_BAD_ARGUMENT",
        `--workload ${workload} is unknown; there are ${workloadNames.slice(0, -1).join(", ")} and medusa-N`,
      );
  }
}

async function makeRecorded(options: WorkloadOptions, workload: RecordedWorkload): Promise<Workload> {
  const { templates, tree: index = 0, firstStep = 1, steps, promptTokens } = options;
  if (templates === undefined) {
    throw new DeftreeError(
      "E_BAD_ARGUMENT",
      `--workload ${workload} replays a recorded tree and needs --templates, ${templateLayout}. ` +
        "few-shot, same-prompt, thoughts and medusa-N need no data.",
    );
  }
  const recorded = await readRecordedTree(templates, workload, index);
  const tree = promptTokens === undefined ? recorded : withPrompt(recorded, promptTokens);
  const last = steps === undefined ? numSteps(tree) : Math.min(numSteps(tree), firstStep + steps - 1);
  return { kind: "replay", label: tree.name, tree, range: checkedRange(tree, firstStep, last), samePrompt: false };
}

async function makeDrafts(options: WorkloadOptions, size: number): Promise<{ workloads: Workload[]; notice?: string }> {
  const { templates, promptTokens = defaultPromptTokens, steps = defaultSteps } = options;
  const drafts = (shape: string, parents: number[]): Workload => ({
    kind: "drafts",
    label: `medusa-${size} ${shape}`,
    promptTokens,
    parents,
    steps,
  });
  const star = drafts("star", new Array<number>(size).fill(-1));
  if (templates === undefined) {
    const notice = `only the flat star is measured: Medusa's token tree needs --templates, ${templateLayout}`;
    return { workloads: [star], notice };
  }
  return { workloads: [star, drafts("tree", await readTokenTree(templates, size))] };
}

function checkedRange(tree: ReplayTree, first: number, last: number): StepRange {
  if (first > numSteps(tree)) {
    throw new DeftreeError("E_BAD_ARGUMENT", `--first-step ${first}: ${tree.name} ends at step ${numSteps(tree)}`);
  }
  return { first, last };
}
