/** Random work on a forest, with a naive model beside: every branch is a list of tokens, and must behave like it alone. */
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type BranchEngine, Engine, type EngineBranch } from "../src/index.js";
import { temporaryFolder } from "./temporary-folder.js";
import { exactness, testDevice } from "./test-device.js";
import { writeTinyModel } from "./tiny-model.js";

const folder = writeTinyModel(path.join(temporaryFolder(), "tiny"));

interface Tracked {
  branch: EngineBranch;
  tokens: number[];
}

/** Small integers, the same for the same seed. */
function randomIntegers(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

describe("random operations", () => {
  let engine: BranchEngine;
  let alone: BranchEngine;
  beforeAll(async () => {
    // Few pages, so that eviction and pausing happen; the other engine has plenty.
    engine = await Engine.load(folder, { device: testDevice, threads: 2, kvTokens: 1024, maxStepTokens: 48 });
    alone = await Engine.load(folder, { device: testDevice, threads: 1, kvTokens: 4096 });
  });
  afterAll(async () => {
    await engine?.dispose();
    await alone?.dispose();
  });

  async function expectLikeAlone({ branch, tokens }: Tracked): Promise<void> {
    expect(branch.length).toBe(tokens.length);
    if (tokens.length === 0) return;
    using fresh = alone.branch();
    await fresh.extend(tokens);
    const [actual, expected] = [await branch.logits(), await fresh.logits()];
    const worst = expected.reduce((worst, logit, index) => Math.max(worst, Math.abs(logit - actual[index]!)), 0);
    expect(worst).toBeLessThan(exactness.bitwise ? 1e-3 : exactness.logprob);
  }

  it.each([1, 2, 3, 4])("seed %i", { timeout: 120_000 }, async (seed) => {
    const random = randomIntegers(seed);
    const words = () => Array.from({ length: 1 + random(20) }, () => 3 + random(256));
    let live: Tracked[] = [{ branch: engine.branch(), tokens: [] }];

    /** One random operation on one branch; resolves when the branch's tokens are known again. */
    async function operate(tracked: Tracked): Promise<void> {
      const { branch, tokens } = tracked;
      switch (random(6)) {
        case 0: {
          for (const child of branch.fork(1 + random(3))) live.push({ branch: child, tokens: [...tokens] });
          return;
        }
        case 1: {
          if (tokens.length === 0) return;
          const controller = new AbortController();
          const stream = branch.decode({
            maxTokens: 1 + random(8),
            stopTokens: [],
            temperature: 1,
            seed: random(100),
            signal: controller.signal,
          });
          if (random(3) === 0) {
            for await (const _ of stream) break;
            controller.abort();
          }
          tokens.push(...(await stream).tokens);
          return;
        }
        case 2: {
          if (tokens.length > 0) await branch.score(words());
          return;
        }
        case 3: {
          tokens.length = random(tokens.length + 1);
          await branch.truncate(tokens.length);
          return;
        }
        case 4: {
          if (live.length < 4) return;
          branch.prune({ keepCached: random(2) === 0 });
          live = live.filter((other) => other !== tracked);
          return;
        }
        default: {
          const added = words();
          await branch.extend(added);
          tokens.push(...added);
        }
      }
    }

    for (let round = 0; round < 25; round++) {
      const chosen = new Set(Array.from({ length: 1 + random(4) }, () => live[random(live.length)]!));
      await Promise.all([...chosen].map(operate));
      await engine.checkInvariants();
      while (live.length > 10) live.splice(random(live.length), 1)[0]!.branch.prune();
    }
    for (const tracked of live) await expectLikeAlone(tracked);
    for (const { branch } of live) branch.prune();
    await engine.checkInvariants();
    expect(engine.stats().branches).toBe(0);
  });
});
