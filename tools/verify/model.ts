/**
 * Runs a schedule (schedule.py) on the engine: `model REQUEST.json FOLDER` writes FOLDER/logits.bin, one row of
 * `[vocabSize]` float32 for each prompt chunk and each live branch of each step, and FOLDER/result.json.
 */
import { closeSync, openSync, readFileSync, writeFileSync, writeSync } from "node:fs";
import path from "node:path";
import {
  type AttentionPolicy,
  Engine,
  type EngineBranch,
  type EngineOptions,
} from "../../packages/engine/src/index.js";

interface Request {
  model: string;
  options: EngineOptions;
  /** A token whose keys and values are NaN; every page is filled with it before the schedule runs. */
  nanToken: number | null;
  prompt: number[][];
  rounds: {
    attention: AttentionPolicy | null;
    fork: { parent: string; children: string[] }[];
    prune: string[];
    byDecode: boolean;
    tokens: Record<string, number[]>;
  }[];
  greedyTokens: number;
}

const [requestFile, folder] = process.argv.slice(2);
if (!requestFile || !folder) throw new Error("usage: model REQUEST.json FOLDER");
const request = JSON.parse(readFileSync(requestFile, "utf8")) as Request;

const startedAt = performance.now();
await using engine = await Engine.load(request.model, request.options);
const loadedAt = performance.now();
if (request.nanToken !== null) await poisonPages(request.nanToken);

const output = openSync(path.join(folder, "logits.bin"), "w");
const branches = new Map<string, EngineBranch>([["r", engine.branch()]]);
for (const chunk of request.prompt) {
  await branch("r").extend(chunk);
  writeSync(output, await branch("r").logits());
}
for (const { attention, fork, prune, byDecode, tokens } of request.rounds) {
  if (attention) engine.setAttention(attention);
  for (const { parent, children } of fork) {
    const forked = branch(parent).fork(children.length);
    for (const [index, name] of children.entries()) branches.set(name, forked[index]!);
  }
  for (const name of prune) {
    branch(name).prune();
    branches.delete(name);
  }
  const rows = await Promise.all(
    Object.entries(tokens).map(async ([name, added]) => {
      if (byDecode) await decodeForced(branch(name), added);
      else await branch(name).extend(added);
      return branch(name).logits();
    }),
  );
  for (const row of rows) writeSync(output, row);
}
closeSync(output);

engine.setAttention("deft-flatten");
const greedy = await Promise.all(
  [...branches].map(async ([name, live]) => {
    const result = await live.decode({ maxTokens: request.greedyTokens, stopTokens: [], logprobs: 0 });
    return [name, { tokens: result.tokens, logprobs: result.logprobs }] as const;
  }),
);
for (const live of branches.values()) live.prune();
await engine.checkInvariants();
const stats = engine.stats();
writeFileSync(
  path.join(folder, "result.json"),
  JSON.stringify({
    greedy: Object.fromEntries(greedy),
    info: engine.info,
    stats,
    pagesLost: stats.numPages - stats.freePages - stats.cachedPages,
    loadMs: loadedAt - startedAt,
    runMs: performance.now() - loadedAt,
  }),
);

function branch(name: string): EngineBranch {
  const found = branches.get(name);
  if (!found) throw new Error(`the schedule names the branch ${name}, which is not alive`);
  return found;
}

/** One token at a time through the sampler: the bias leaves nothing else to draw. */
async function decodeForced(target: EngineBranch, tokens: readonly number[]): Promise<void> {
  for (const token of tokens) {
    const result = await target.decode({ maxTokens: 1, stopTokens: [], logitBias: { [token]: 1000 } });
    if (result.tokens[0] !== token) throw new Error(`decoded ${result.tokens[0]} where the bias leaves only ${token}`);
  }
}

/** Afterwards a kernel that reads a slot which no token owns reads NaN, in every layer. */
async function poisonPages(nanToken: number): Promise<void> {
  const { numPages, pageSize } = engine.info;
  using filler = engine.branch();
  await filler.extend(Array<number>(numPages * pageSize).fill(nanToken));
  if (engine.stats().freePages !== 0) throw new Error(`${engine.stats().freePages} pages were not poisoned`);
}
