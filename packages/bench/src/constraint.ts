import { Engine, type EngineOptions } from "@deftree/engine";
import { describeMachine, type MachineInfo, median, percentile } from "./machine.js";

/**
 * What keeping to a JSON Schema adds to a decode step: branches on one prompt decode freely, under a schema whose masks are
 * known, and under one never seen before. The three take turns, in another order each round; a step's time is that of
 * the engine's whole step, and ratios are taken within a round.
 */
interface ConstraintBenchOptions {
  model: string;
  engine?: EngineOptions;
  branches: number;
  promptTokens: number;
  /** Decode steps of each turn. */
  steps: number;
  rounds: number;
  temperature: number;
  /** Ends the run; the result holds what was measured so far. */
  signal?: AbortSignal;
}

interface ConstraintBenchResult {
  benchmark: "constraint";
  machine: MachineInfo;
  device: string;
  model: string;
  vocabSize: number;
  branches: number;
  promptTokens: number;
  steps: number;
  temperature: number;
  interrupted: boolean;
  rows: ConstraintBenchRow[];
}

interface ConstraintBenchRow {
  decoding: Decoding;
  rounds: number;
  /** Median of the rounds' mean step. */
  stepMs: number;
  /** Of the free step of the same round: median, and the 10th and 90th of 100. */
  ratio: number;
  ratioP10: number;
  ratioP90: number;
  /** Compiling the schema, on the caller's thread. */
  compileMs: number;
}

type Decoding = "free" | "known schema" | "new schema";
const decodings: readonly Decoding[] = ["free", "known schema", "new schema"];

interface Turn {
  stepMs: number;
  compileMs: number;
}

/** @throws what Engine.load throws, and E_BAD_ARGUMENT for a model without text or too short a context. */
export async function benchConstraint(options: ConstraintBenchOptions): Promise<ConstraintBenchResult> {
  const { branches, promptTokens, steps, rounds, temperature, signal } = options;
  const kvTokens = options.engine?.kvTokens ?? promptTokens + 2 * branches * (steps + 32) + 64;
  await using engine = await Engine.load(options.model, { ...options.engine, kvTokens, signal });
  const prompt = engine.branch();
  await prompt.extend(Array.from({ length: promptTokens }, (_, i) => 3 + ((7 * i) % 200)));
  const turns = new Map<Decoding, Turn[]>(decodings.map((decoding) => [decoding, []]));
  let numSchemas = 0;
  const take = async (decoding: Decoding, seed: number): Promise<Turn> => {
    const schema = personList(decoding === "new schema" ? `list ${++numSchemas}` : "list");
    const before = engine.stats();
    const start = performance.now();
    const forks = prompt.fork(branches);
    const streams = forks.map((fork) =>
      fork.decode({
        temperature,
        seed,
        maxTokens: steps,
        stopTokens: [],
        speculation: "off",
        ...(decoding !== "free" && { constraint: { jsonSchema: schema, mayStayOpen: true } }),
      }),
    );
    const compileMs = performance.now() - start;
    await Promise.all(streams);
    const after = engine.stats();
    for (const fork of forks) fork.prune();
    return { stepMs: (after.stepNs - before.stepNs) / (after.steps - before.steps) / 1e6, compileMs };
  };
  for (const decoding of decodings) await take(decoding, 0);
  for (let round = 0; round < rounds && !signal?.aborted; round++) {
    for (let i = 0; i < decodings.length; i++) {
      const decoding = decodings[(i + round) % decodings.length]!;
      turns.get(decoding)!.push(await take(decoding, round + 1));
    }
  }
  const { description, modelName, vocabSize } = engine.info;
  return {
    benchmark: "constraint",
    machine: describeMachine(),
    device: description,
    model: modelName,
    vocabSize,
    ...{ branches, promptTokens, steps, temperature, interrupted: signal?.aborted ?? false },
    rows: decodings.map((decoding) => summarize(decoding, turns.get(decoding)!, turns.get("free")!)),
  };
}

function summarize(decoding: Decoding, turns: readonly Turn[], free: readonly Turn[]): ConstraintBenchRow {
  const ratios = turns.map(({ stepMs }, round) => stepMs / free[round]!.stepMs);
  return {
    decoding,
    rounds: turns.length,
    stepMs: median(turns.map(({ stepMs }) => stepMs)),
    ratio: median(ratios),
    ratioP10: percentile(ratios, 10),
    ratioP90: percentile(ratios, 90),
    compileMs: median(turns.map(({ compileMs }) => compileMs)),
  };
}

/** More items than there are steps, so that no branch ends before the others. */
function personList(description: string): object {
  const person = {
    type: "object",
    properties: {
      name: { type: "string", maxLength: 40 },
      age: { type: "integer", minimum: 0, maximum: 130 },
      email: { type: "string", pattern: "^[a-z]+@[a-z]+\\.(com|org)$" },
      tags: { type: "array", items: { enum: ["new", "old", "lost"] }, maxItems: 4 },
      friend: {
        anyOf: [{ type: "null" }, { type: "object", properties: { name: { type: "string" } }, required: ["name"] }],
      },
    },
    required: ["name", "age", "tags", "friend"],
    additionalProperties: false,
  };
  return { description, type: "array", items: person, minItems: 10_000 };
}
