/** A node of a recorded tree: it gets one token in each of the steps `start` to `end`. */
export interface ReplayNode {
  tokens: number;
  start: number;
  end: number;
  children: number[];
}

/**
 * The shape of a run, step by step. Node 0 is the prompt, which ends at step 0; step 1 gives its children their first
 * tokens. Children start in the step after their parent's last. A node without tokens gets none and ends before it starts.
 */
export interface ReplayTree {
  name: string;
  nodes: ReplayNode[];
}

/** Steps `first` to `last` of a run, both included. */
export interface StepRange {
  first: number;
  last: number;
}

/** What each step of a range holds; entry i is step `first` + i. */
export interface ReplaySchedule {
  /** Branches that get a token. */
  liveBranches: number[];
  /** Tokens that these branches attend to, each counted once: with the token before the one they get. */
  uniqueTokens: number[];
  /** Tokens that they attend to, counted for each branch. */
  pathTokens: number[];
}

export function numSteps(tree: ReplayTree): number {
  return Math.max(...tree.nodes.map(({ end }) => end));
}

/** Tokens of a node that are there before `step`. */
export function tokensBefore({ tokens, start }: ReplayNode, step: number): number {
  return Math.max(0, Math.min(tokens, step - start));
}

function parentsOf(tree: ReplayTree): number[] {
  const parents = tree.nodes.map(() => -1);
  for (const [id, { children }] of tree.nodes.entries()) for (const child of children) parents[child] = id;
  return parents;
}

export function replaySchedule(tree: ReplayTree, { first, last }: StepRange): ReplaySchedule {
  const parents = parentsOf(tree);
  const schedule: ReplaySchedule = { liveBranches: [], uniqueTokens: [], pathTokens: [] };
  for (let step = first; step <= last; step++) {
    const onPath = new Set<number>();
    let live = 0;
    let pathTokens = 0;
    for (const [id, { start, end }] of tree.nodes.entries()) {
      if (step < start || step > end) continue;
      live++;
      for (let at = id; at >= 0; at = parents[at]!) {
        onPath.add(at);
        pathTokens += tokensBefore(tree.nodes[at]!, step);
      }
    }
    schedule.liveBranches.push(live);
    schedule.pathTokens.push(pathTokens);
    schedule.uniqueTokens.push([...onPath].reduce((sum, id) => sum + tokensBefore(tree.nodes[id]!, step), 0));
  }
  return schedule;
}

/** The same shape below a prompt of another length. */
export function withPrompt(tree: ReplayTree, promptTokens: number): ReplayTree {
  const [prompt, ...others] = tree.nodes;
  return { ...tree, nodes: [{ ...prompt!, tokens: promptTokens, start: 1 - promptTokens }, ...others] };
}

/** Few-shot: `width` branches of `steps` tokens below one prompt. */
export function starTree(promptTokens: number, width: number, steps: number): ReplayTree {
  return levelTree(promptTokens, width, 1, steps);
}

/** Breadth-first search that keeps one thought a level: `depth` levels of `width` thoughts of `thoughtTokens`. */
export function levelTree(promptTokens: number, width: number, depth: number, thoughtTokens: number): ReplayTree {
  const nodes: ReplayNode[] = [{ tokens: promptTokens, start: 1 - promptTokens, end: 0, children: [] }];
  let kept = 0;
  for (let level = 0; level < depth; level++) {
    const { end } = nodes[kept]!;
    const children = Array.from({ length: width }, (_, i) => nodes.length + i);
    nodes[kept]!.children = children;
    for (let i = 0; i < width; i++) {
      nodes.push({ tokens: thoughtTokens, start: end + 1, end: end + thoughtTokens, children: [] });
    }
    kept = children[0]!;
  }
  return { name: `${depth} x ${width} thoughts`, nodes };
}
