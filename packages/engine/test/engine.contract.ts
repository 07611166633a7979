/**
 * What every BranchEngine must do. The cases are written once; each implementation runs them from its own test file.
 * Longer than other files so that the whole contract can be read in one place.
 */
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import type { BranchEngine, DecodedToken, DecodeOptions, DecodeResult, EngineBranch } from "../src/engine-types.js";
import { exactness } from "./test-device.js";

/** In mini's own words, so that what it says depends on what follows. */
const prompt =
  "Sort the list of digits in ascending order. Keep every repetition. Answer with the sorted list only.\nInput:";

/** @param load opens a fresh engine whose context is at least 256 tokens and whose KV holds at least 16 such prompts. */
export function describeBranchEngine(name: string, load: () => Promise<BranchEngine>): void {
  describe(name, () => {
    let engine: BranchEngine;
    let open: EngineBranch[] = [];

    beforeAll(async () => {
      engine = await load();
    });
    afterEach(async () => {
      for (const branch of open) branch.prune();
      open = [];
      await engine.checkInvariants();
    });
    afterAll(async () => {
      await engine?.dispose();
    });

    /** A branch that is pruned after the test. */
    async function branchWith(content: string | readonly number[] = prompt): Promise<EngineBranch> {
      const branch = engine.branch();
      open.push(branch);
      await branch.extend(content);
      return branch;
    }
    const fork = (branch: EngineBranch, n: number): EngineBranch[] => {
      const children = branch.fork(n);
      open.push(...children);
      return children;
    };
    const greedy = { maxTokens: 12, stopTokens: [] };
    /**
     * Two greedy decodes after the prompt and `continuation` agree: to the token, or where the device is not exact up to the first place at
     * which the two tokens nearly tie.
     */
    async function expectSameDecode(actual: readonly number[], expected: readonly number[], continuation = "") {
      if (exactness.bitwise) return expect(actual).toEqual(expected);
      expect(actual).toHaveLength(expected.length);
      const at = expected.findIndex((token, index) => token !== actual[index]);
      if (at < 0) return;
      const before = [prompt, continuation].flatMap((text) => engine.tokenizer.encode(text));
      const branch = await branchWith([...before, ...expected.slice(0, at)]);
      const logits = await branch.logits();
      expect(Math.abs(logits[expected[at]!]! - logits[actual[at]!]!)).toBeLessThan(exactness.logprob);
    }
    /** Leaves nothing behind, so that the next one computes the same steps: the same to the bit on every device. */
    async function decodeAlone(options: DecodeOptions): Promise<DecodeResult> {
      using branch = engine.branch();
      await branch.extend(prompt);
      return await branch.decode(options);
    }
    /** Bias that leaves only the letters a to z, so that text is easy to compare. */
    const letters = () =>
      Object.fromEntries(
        [..."abcdefghijklmnopqrstuvwxyz"].map((letter) => [engine.tokenizer.encode(letter)[0]!, 1000]),
      );
    const code = (code: string) => expect.objectContaining({ code });

    describe("extend", () => {
      it("appends text and tokens and reports the length", async () => {
        const tokens = engine.tokenizer.encode(prompt);
        const branch = engine.branch();
        open.push(branch);
        expect(branch.length).toBe(0);
        expect((await branch.extend(prompt)).length).toBe(tokens.length);
        expect((await branch.extend(tokens.slice(0, 3))).length).toBe(tokens.length + 3);
        expect(branch.length).toBe(tokens.length + 3);
        expect((await branch.extend("")).length).toBe(tokens.length + 3);
      });

      it("finds a prompt that is in the forest", async () => {
        const tokens = engine.tokenizer.encode(prompt);
        await branchWith(prompt);
        const second = engine.branch();
        open.push(second);
        const { reusedTokens } = await second.extend([...tokens, ...tokens.slice(0, 4)]);
        expect(reusedTokens).toBeGreaterThan(tokens.length / 2);
        expect(reusedTokens).toBeLessThanOrEqual(tokens.length);
      });

      it("refuses what the context cannot hold, before anything runs", async () => {
        const { contextLength } = engine.info;
        const branch = await branchWith();
        const { length } = branch;
        const stepsBefore = engine.stats().prefilledTokens;
        const tooLong = Array(contextLength).fill(engine.tokenizer.encode("a")[0]!);
        await expect(branch.extend(tooLong)).rejects.toMatchObject({
          code: "E_CONTEXT_FULL",
          figures: { length, added: contextLength, wanted: length + contextLength, contextLength },
        });
        expect(engine.stats().prefilledTokens).toBe(stepsBefore);
        expect((await branch.extend("a")).length).toBe(length + 1);
      });

      it.each([-1, 0.5, Number.NaN, 2 ** 31, "vocabSize"])("refuses the token %s", async (token) => {
        const { vocabSize } = engine.info;
        const branch = await branchWith();
        const id = token === "vocabSize" ? vocabSize : (token as number);
        await expect(branch.extend([0, id])).rejects.toMatchObject({
          code: "E_BAD_ARGUMENT",
          figures: { index: 1, vocabSize },
        });
      });
    });

    describe("decode", () => {
      it("gives the same tokens every time, and text that is theirs", async () => {
        const first = await (await branchWith()).decode(greedy);
        const branch = await branchWith();
        const before = branch.length;
        const streamed: DecodedToken[] = [];
        const stream = branch.decode(greedy);
        for await (const token of stream) streamed.push(token);
        const second = await stream;
        await expectSameDecode(second.tokens, first.tokens);
        expect(second.finishReason).toBe("length");
        expect(second.tokens).toHaveLength(12);
        expect(second.text).toBe(engine.tokenizer.decode(second.tokens));
        expect(streamed.map(({ id }) => id)).toEqual(second.tokens);
        expect(streamed.map(({ text }) => text).join("")).toBe(second.text);
        expect(branch.length).toBe(before + 12);
      });

      it("takes the likeliest token when greedy", async () => {
        const branch = await branchWith();
        const logits = await branch.logits();
        expect(logits).toHaveLength(engine.info.vocabSize);
        const best = logits.indexOf(Math.max(...logits));
        expect((await branch.decode({ maxTokens: 1, stopTokens: [] })).tokens).toEqual([best]);
      });

      it("runs without being read, and can be read afterwards, twice", async () => {
        const stream = (await branchWith()).decode(greedy);
        const { tokens } = await stream.result;
        for (let reader = 0; reader < 2; reader++) {
          const ids: number[] = [];
          for await (const { id } of stream) ids.push(id);
          expect(ids).toEqual(tokens);
        }
      });

      it("ends at a stop token, which is not part of the text", async () => {
        const whole = await (await branchWith()).decode(greedy);
        const stopToken = whole.tokens[5]!;
        const expected = whole.tokens.slice(0, whole.tokens.indexOf(stopToken) + 1);
        const branch = await branchWith();
        const result = await branch.decode({ ...greedy, stopTokens: [stopToken] });
        expect(result).toMatchObject({
          tokens: expected,
          finishReason: "stop",
          text: engine.tokenizer.decode(expected.slice(0, -1)),
        });
        expect(result.stopString).toBeUndefined();
        expect(branch.length).toBe(engine.tokenizer.encode(prompt).length + expected.length);
      });

      it("ends at a stop string across tokens, which is not part of the text", async () => {
        const sampling = { temperature: 1, seed: 5, logitBias: letters(), maxTokens: 40, stopTokens: [] };
        const whole = await decodeAlone(sampling);
        const stop = whole.text.slice(9, 14);
        const start = whole.text.indexOf(stop);
        const pieces: string[] = [];
        const stream = (await branchWith()).decode({ ...sampling, stop: ["~~", stop] });
        for await (const { text } of stream) pieces.push(text);
        const result = await stream;
        expect(result).toMatchObject({ text: whole.text.slice(0, start), finishReason: "stop", stopString: stop });
        expect(pieces.join("")).toBe(result.text);
        expect(result.tokens).toEqual(whole.tokens.slice(0, result.tokens.length));
      });

      it("fills the context and then ends", async () => {
        const { contextLength } = engine.info;
        const filler = engine.tokenizer.encode(prompt)[0]!;
        const branch = await branchWith(Array(contextLength - 5).fill(filler));
        const result = await branch.decode({ stopTokens: [] });
        expect(result.finishReason).toBe("length");
        expect(result.tokens.length).toBeGreaterThanOrEqual(5);
        expect(branch.length).toBeLessThanOrEqual(contextLength + 1);
      });

      it("gives log-probabilities that score confirms", async () => {
        const branch = await branchWith();
        const result = await branch.decode({ ...greedy, logprobs: 0 });
        const scored = await (await branchWith()).score(result.tokens);
        expect(scored.tokens).toEqual(result.tokens);
        expect(scored.total).toBeCloseTo(
          scored.logprobs.reduce((a, b) => a + b, 0),
          5,
        );
        for (const [index, logprob] of scored.logprobs.entries()) {
          expect(logprob).toBeLessThanOrEqual(0);
          expect(Math.abs(logprob - result.logprobs![index]!)).toBeLessThan(exactness.logprob);
        }
      });

      it("gives the likeliest tokens, likeliest first", async () => {
        const stream = (await branchWith()).decode({ maxTokens: 4, stopTokens: [], logprobs: 5 });
        let count = 0;
        for await (const { id, logprob, topLogprobs } of stream) {
          count++;
          expect(topLogprobs).toHaveLength(5);
          expect(topLogprobs![0]).toEqual({ id, logprob });
          const values = topLogprobs!.map((entry) => entry.logprob);
          expect([...values].sort((a, b) => b - a)).toEqual(values);
          expect(values.reduce((sum, value) => sum + Math.exp(value), 0)).toBeLessThanOrEqual(1.0001);
        }
        expect(count).toBe(4);
      });

      it("has no log-probabilities unless asked", async () => {
        const result = await (await branchWith()).decode({ maxTokens: 1 });
        expect(result.logprobs).toBeUndefined();
      });

      it("draws the same tokens for the same seed, whatever else is decoded", async () => {
        const sampling = { temperature: 1.5, seed: 7, maxTokens: 16, stopTokens: [] };
        const alone = await decodeAlone(sampling);
        expect((await decodeAlone(sampling)).tokens).toEqual(alone.tokens);
        const others = fork(await branchWith("Something else entirely"), 3).map((branch) =>
          branch.decode({ ...sampling, seed: 3 }),
        );
        const beside = await (await branchWith()).decode(sampling);
        const other = await (await branchWith()).decode({ ...sampling, seed: 8 });
        await Promise.all(others);
        if (exactness.bitwise) expect(beside.tokens).toEqual(alone.tokens);
        expect(other.tokens).not.toEqual(alone.tokens);
      });

      it("draws differently on each child of a fork, and the same again", async () => {
        const sampling = { temperature: 1.5, seed: 7, maxTokens: 16, stopTokens: [] };
        const run = async () =>
          Promise.all(fork(await branchWith(), 4).map(async (branch) => (await branch.decode(sampling)).tokens.join()));
        const first = await run();
        expect(new Set(first).size).toBe(4);
        if (exactness.bitwise) expect(await run()).toEqual(first);
      });

      it("refuses options it does not know or cannot use", async () => {
        const branch = await branchWith();
        const bad: object[] = [
          { maxToken: 3 },
          { maxTokens: 0 },
          { temperature: -1 },
          { temperature: Number.NaN },
          { topP: 2 },
          { stop: [""] },
          { stop: "x" },
          { stopTokens: [engine.info.vocabSize] },
          { logitBias: { [engine.info.vocabSize]: 1 } },
          { logprobs: 1000 },
          { speculation: "on" },
          { speculation: true },
          { speculation: null },
          { speculation: { mode: "off" } },
          { speculation: { maxDraftTokens: 0 } },
          { speculation: { maxDraftTokens: 1025 } },
          { speculation: { sources: [] } },
          { speculation: { sources: ["oracle"] } },
          { speculation: { drafts: 3 } },
          { seed: 0.5 },
          { signal: {} },
        ];
        for (const options of bad)
          await expect(branch.decode(options).result, JSON.stringify(options)).rejects.toThrow(code("E_BAD_ARGUMENT"));
        await expect(branch.decode({ maxToken: 3 } as object).result).rejects.toThrow(/maxTokens, stop, stopTokens/);
      });

      it("refuses an empty branch", async () => {
        const branch = engine.branch();
        open.push(branch);
        await expect(branch.decode().result).rejects.toThrow(code("E_BAD_ARGUMENT"));
        await expect(branch.logits()).rejects.toThrow(code("E_BAD_ARGUMENT"));
        await expect(branch.score("a")).rejects.toThrow(code("E_BAD_ARGUMENT"));
      });
    });

    describe("speculation", () => {
      const always = { mode: "always" } as const;
      it.each([
        ["greedy", {}],
        ["sampled", { temperature: 1, seed: 11 }],
        ["with penalties and log-probabilities", { temperature: 0.8, seed: 3, repetitionPenalty: 1.2, logprobs: 2 }],
      ])("never changes the tokens: %s", async (_, sampling) => {
        const options = { maxTokens: 32, stopTokens: [], ...sampling };
        const plain = await (await branchWith()).decode({ ...options, speculation: "off" });
        const before = engine.stats();
        const [speculative, auto] = [
          await (await branchWith()).decode({ ...options, speculation: always }),
          await (await branchWith()).decode({ ...options, speculation: "auto" }),
        ];
        expect(engine.stats().draftedTokens).toBeGreaterThan(before.draftedTokens);
        for (const { tokens, logprobs } of [speculative, auto]) {
          expect(tokens).toHaveLength(32);
          expect(logprobs?.length).toBe(plain.logprobs?.length);
          if ("temperature" in sampling && exactness.bitwise) expect(tokens).toEqual(plain.tokens);
          else if (!("temperature" in sampling)) await expectSameDecode(tokens, plain.tokens);
        }
      });

      it("ends at the same stop string, and counts what it drafted", async () => {
        const whole = await (await branchWith()).decode({ maxTokens: 32, stopTokens: [] });
        const stop = engine.tokenizer.decode(whole.tokens.slice(20, 22));
        const before = engine.stats();
        const options = { maxTokens: 32, stopTokens: [], stop: stop === "" ? [] : [stop] };
        const branch = await branchWith();
        const { length } = branch;
        const result = await branch.decode({ ...options, speculation: always });
        const plain = await (await branchWith()).decode(options);
        if (exactness.bitwise) expect(result).toEqual(plain);
        expect(branch.length).toBe(length + result.tokens.length);
        const after = engine.stats();
        expect(after.draftTrees).toBeGreaterThan(before.draftTrees);
        expect(after.acceptedDraftTokens).toBeLessThanOrEqual(after.draftedTokens);
      });
    });

    describe("fork", () => {
      it.each([1, 4, 16])("decodes %i branches in one step to what each gives alone", async (count) => {
        const continuations = Array.from({ length: count }, (_, index) => ` [${index}, ${(index * 7) % 10}]`);
        const alone: number[][] = [];
        for (const continuation of continuations) {
          const branch = engine.branch();
          await branch.extend(prompt);
          await branch.extend(continuation);
          alone.push((await branch.decode(greedy)).tokens);
          branch.prune();
        }
        if (count > 1) expect(new Set(alone.map(String)).size).toBeGreaterThan(1);
        const children = fork(await branchWith(), count);
        const together = await Promise.all(
          children.map(async (child, index) => {
            await child.extend(continuations[index]!);
            return (await child.decode(greedy)).tokens;
          }),
        );
        for (const [index, tokens] of together.entries()) {
          await expectSameDecode(tokens, alone[index]!, continuations[index]!);
        }
      });

      it("makes branches that can be used at once, and leaves the parent usable", async () => {
        const branch = engine.branch();
        const extended = branch.extend(prompt);
        const [left, right] = branch.fork(2) as [EngineBranch, EngineBranch];
        const [grandchild] = left.fork(1) as [EngineBranch];
        open.push(branch, left, right, grandchild);
        expect(grandchild.length).toBe(branch.length);
        const results = await Promise.all([branch, left, right, grandchild].map((each) => each.decode(greedy).result));
        await extended;
        for (const { tokens } of results) await expectSameDecode(tokens, results[0]!.tokens);
      });

      it("outlives its parent", async () => {
        const branch = await branchWith();
        const [child] = fork(branch, 1);
        branch.prune();
        expect((await child!.decode(greedy)).tokens).toHaveLength(12);
      });

      it("starts what begins in one turn of the event loop in one step, forked or not", async () => {
        const parents = await Promise.all([branchWith(), branchWith(` again. ${prompt}`)]);
        const before = engine.stats();
        // Decodes behind a promise, of two parents, in a turn so slow that the engine could run ahead with the first.
        const decodes = parents
          .flatMap((parent) => fork(parent, 4))
          .map(async (child) => {
            await null;
            const decoding = child.decode(greedy);
            for (const end = performance.now() + 5; performance.now() < end; );
            return decoding;
          });
        await Promise.all(decodes);
        const after = engine.stats();
        expect(after.decodedTokens - before.decodedTokens).toBe(8 * 12);
        expect(after.steps - before.steps).toBe(12);
      });

      it("draws a child's tokens again when it is forked again under its number", async () => {
        const branch = await branchWith();
        const sampled = { maxTokens: 12, stopTokens: [], temperature: 1.5, seed: 3 };
        const draw = async (child: EngineBranch) => (await child.decode(sampled)).tokens;
        const [first, , third] = fork(branch, 3);
        const expected = [await draw(first!), await draw(third!)];
        const again = branch.fork(1, { firstOrdinal: 2 })[0]!;
        const next = branch.fork(1)[0]!;
        open.push(again, next);
        if (exactness.bitwise) expect(await draw(again)).toEqual(expected[1]);
        expect(await draw(next)).not.toEqual(expected[0]);
        expect(() => branch.fork(1, { firstOrdinal: -1 })).toThrow(code("E_BAD_ARGUMENT"));
      });

      it.each([0, -1, 1.5, Number.NaN, 1e9])("refuses %d branches", async (n) => {
        const branch = await branchWith();
        expect(() => branch.fork(n)).toThrow(code("E_BAD_ARGUMENT"));
      });
    });

    describe("score", () => {
      it("leaves the branch as it was", async () => {
        const branch = await branchWith();
        const { length } = branch;
        const expected = await (await branchWith()).decode(greedy);
        const score = await branch.score(" [7, 8, 9]");
        expect(score.logprobs).toHaveLength(score.tokens.length);
        expect(branch.length).toBe(length);
        expect(await branch.score("")).toEqual({ tokens: [], logprobs: [], total: 0 });
        await expectSameDecode((await branch.decode(greedy)).tokens, expected.tokens);
      });

      it("gives the log-softmax of the branch's logits for one token", async () => {
        const branch = await branchWith();
        const logits = await branch.logits();
        const largest = Math.max(...logits);
        const logSum = largest + Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit - largest), 0));
        for (const token of [0, 17, 42]) {
          const { total } = await branch.score([token]);
          expect(Math.abs(total - (logits[token]! - logSum))).toBeLessThan(exactness.logSoftmax);
        }
      });
    });

    describe("truncate", () => {
      it("goes back to an earlier state", async () => {
        const branch = await branchWith();
        const { length } = branch;
        const first = await branch.decode(greedy);
        await branch.truncate(length);
        expect(branch.length).toBe(length);
        await expectSameDecode((await branch.decode(greedy)).tokens, first.tokens);
      });

      it("does not change what was forked before", async () => {
        const branch = await branchWith();
        const expected = await (await branchWith()).decode(greedy);
        const [child] = fork(branch, 1);
        await branch.truncate(3);
        await branch.extend("Something else");
        await expectSameDecode((await child!.decode(greedy)).tokens, expected.tokens);
      });

      it.each([-1, 0.5, 1e6])("refuses the length %d", async (length) => {
        await expect((await branchWith()).truncate(length)).rejects.toThrow(code("E_BAD_ARGUMENT"));
      });
    });

    describe("prune", () => {
      it("ends a running decode with what it has", async () => {
        const branch = await branchWith();
        const stream = branch.decode({ stopTokens: [] });
        for await (const _ of stream) break;
        branch.prune();
        const result = await stream;
        expect(result.finishReason).toBe("pruned");
        expect(result.tokens.length).toBeGreaterThan(0);
      });

      it("makes the branch unusable, twice is fine", async () => {
        const branch = await branchWith();
        branch.prune();
        branch.prune();
        branch[Symbol.dispose]();
        expect(branch.disposed).toBe(true);
        const gone = code("E_DISPOSED");
        await expect(branch.extend("a")).rejects.toThrow(gone);
        await expect(branch.decode().result).rejects.toThrow(gone);
        await expect(branch.score("a")).rejects.toThrow(gone);
        await expect(branch.logits()).rejects.toThrow(gone);
        await expect(branch.truncate(0)).rejects.toThrow(gone);
        expect(() => branch.fork(1)).toThrow(gone);
      });

      it("frees the pages of what no branch reads", async () => {
        const branch = await branchWith();
        for (const child of fork(branch, 3)) await child.extend(" and more");
        for (const each of open) each.prune();
        open = [];
        await engine.checkInvariants();
        const stats = engine.stats();
        expect(stats.branches).toBe(0);
        expect(stats.freePages + stats.cachedPages).toBe(stats.numPages);
      });

      it("keeps a prefix for later where asked", async () => {
        const text = `A prefix of its own, long enough to fill pages: ${prompt}`;
        const branch = await branchWith(text);
        branch.prune({ keepCached: true });
        const again = engine.branch();
        open.push(again);
        expect((await again.extend(text)).reusedTokens).toBeGreaterThan(16);
      });
    });

    describe("abort", () => {
      it("ends a decode with what it has, and leaves the branch usable", async () => {
        const branch = await branchWith();
        const before = branch.length;
        const controller = new AbortController();
        const stream = branch.decode({ stopTokens: [], signal: controller.signal });
        for await (const _ of stream) break;
        controller.abort();
        const result = await stream;
        expect(result.finishReason).toBe("aborted");
        expect(result.tokens.length).toBeGreaterThan(0);
        expect(branch.length).toBe(before + result.tokens.length);
        expect((await branch.decode({ maxTokens: 2, stopTokens: [] })).tokens).toHaveLength(2);
      });

      it("does nothing when it came before the call", async () => {
        const branch = await branchWith();
        const signal = AbortSignal.abort();
        expect(await branch.decode({ signal })).toEqual({ tokens: [], text: "", finishReason: "aborted" });
        await expect(branch.extend("a", { signal })).rejects.toThrow(code("E_ABORTED"));
        await expect(branch.score("a", { signal })).rejects.toThrow(code("E_ABORTED"));
      });

      it("rejects an extend that it stopped", async () => {
        const branch = await branchWith();
        const running = branch.decode({ stopTokens: [] }); // the extend has to wait for it
        const controller = new AbortController();
        const extended = branch.extend(prompt, { signal: controller.signal });
        controller.abort();
        await expect(extended).rejects.toThrow(code("E_ABORTED"));
        branch.prune();
        const { tokens } = await running;
        expect(branch.length).toBe(engine.tokenizer.encode(prompt).length + tokens.length);
      });
    });

    describe("statistics", () => {
      it("count that shared keys are read once", async () => {
        const branch = await branchWith();
        const before = engine.stats();
        await Promise.all(fork(branch, 8).map((child) => child.decode(greedy)));
        const after = engine.stats();
        expect(after.decodedTokens - before.decodedTokens).toBe(8 * 12);
        expect(after.kvBytesRead).toBeGreaterThan(before.kvBytesRead);
        expect(after.kvBytesUnshared - before.kvBytesUnshared).toBeGreaterThan(0);
      });
    });

    describe("dispose", () => {
      it("fails what is open and everything later, twice is fine", async () => {
        const own = await load();
        const branch = own.branch();
        await branch.extend(prompt);
        const running = branch.decode({ stopTokens: [] });
        const gone = code("E_DISPOSED");
        const failed = expect(running.result).rejects.toThrow(gone);
        await own.dispose();
        await failed;
        await own.dispose();
        expect(() => own.branch()).toThrow(gone);
        expect(() => own.stats()).toThrow(gone);
        expect(() => own.encodeChat([])).toThrow(gone);
        await expect(own.checkInvariants()).rejects.toThrow(gone);
        await expect(branch.extend("a")).rejects.toThrow(gone);
        expect(() => branch.fork(1)).toThrow(gone);
        branch.prune();
      });
    });
  });
}
