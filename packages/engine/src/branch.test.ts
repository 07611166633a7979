/** Branches over a scripted native side: what they submit, and what they make of what comes back. */
import { describe, expect, it } from "vitest";
import { tinyTokenizer, tinyVocabSize } from "../test/tiny-tokenizer.js";
import { AbortWatch } from "./abort-watch.js";
import { Branch } from "./branch.js";
import { ConstraintCache } from "./constraint.js";
import { CustomDrafts } from "./custom-drafts.js";
import type { LoadedSources } from "./draft-source.js";
import type { NativeCommand, NativeConstraint, NativeFinished, NativeStepMessage } from "./native-addon.js";
import { fromAddon, StepDispatcher } from "./step-dispatcher.js";
import { ModelTokenizer } from "./tokenizer.js";

const tokenizer = new ModelTokenizer(
  {
    file: "tokenizer.json",
    tokenizerJson: tinyTokenizer() as never,
    eosTokens: [2],
    bosToken: undefined,
    addBosToken: false,
  },
  tinyVocabSize,
);

function setUp(length = 5) {
  const dispatcher = new StepDispatcher();
  const commands: NativeCommand[] = [];
  const aborts = new AbortWatch((requests) =>
    commands.push(...requests.map((request) => ({ op: "cancel" as const, request }))),
  );
  let nextBranch = 100;
  const context = {
    tokenizer,
    dispatcher,
    contextLength: 64,
    constraints: new ConstraintCache(() => ({}) as NativeConstraint),
    submit: (submitted: NativeCommand[]) => void commands.push(...submitted),
    cancelOnAbort: aborts.watch.bind(aborts),
    draftSources: { names: ["suffix", "recycling"] } as LoadedSources,
    customDrafts: new CustomDrafts(() => {}),
    newBranchId: () => nextBranch++,
  };
  const publish = (
    tokens: [request: number, token: number, logprob?: number][],
    finished: Partial<NativeFinished>[] = [],
  ) => {
    const message: NativeStepMessage = {
      step: 0,
      timeMs: 0,
      requests: Uint32Array.from(tokens, ([request]) => request),
      tokens: Int32Array.from(tokens, ([, token]) => token),
      logprobs: Float32Array.from(tokens, ([, , logprob]) => logprob ?? Number.NaN),
      finished: finished.map((each) => ({ request: 0, reason: "done", branchLength: 0, ...each })),
    };
    dispatcher.dispatch(message);
  };
  const lastRequest = () => (commands.at(-1) as { request: number }).request;
  return { branch: new Branch(context, 7, length), dispatcher, commands, publish, lastRequest };
}

/** Gives the microtasks that are due their turn. */
const settle = () => new Promise<void>((resolve) => setImmediate(resolve));
const tokensOf = (text: string) => tokenizer.encode(text);

describe("Branch", () => {
  it("submits an extend and takes the length from its end", async () => {
    const { branch, commands, publish, lastRequest } = setUp();
    const extended = branch.extend([4, 5, 6]);
    expect(commands).toEqual([{ op: "extend", request: 1, branch: 7, tokens: Int32Array.of(4, 5, 6) }]);
    expect(branch.length).toBe(8);
    publish([], [{ request: lastRequest(), branchLength: 8, reusedTokens: 2 }]);
    expect(await extended).toEqual({ length: 8, reusedTokens: 2 });
    expect(branch.length).toBe(8);
  });

  it("takes back the length of an extend that failed, and passes the error on", async () => {
    const { branch, dispatcher, lastRequest } = setUp();
    const extended = branch.extend([4, 5, 6]);
    const error = { code: "E_KV_FULL", message: "no pages", figures: { wanted_tokens: 3, free: 0 } };
    const finished = [{ request: lastRequest(), reason: "error", branchLength: 5, error }] as NativeFinished[];
    dispatcher.dispatch({
      step: 0,
      timeMs: 0,
      requests: new Uint32Array(),
      tokens: new Int32Array(),
      logprobs: new Float32Array(),
      finished,
    });
    await expect(extended).rejects.toMatchObject({ code: "E_KV_FULL", figures: { wantedTokens: 3, free: 0 } });
    expect(branch.length).toBe(5);
  });

  it("counts forks, so that each child has a path of its own", () => {
    const { branch, commands } = setUp();
    const children = [...branch.fork(2), ...branch.fork(1)];
    expect(children.map(({ id, length }) => [id, length])).toEqual([
      [100, 5],
      [101, 5],
      [102, 5],
    ]);
    expect(commands).toMatchObject([
      { op: "fork", branch: 7, children: [100, 101], firstOrdinal: 0 },
      { op: "fork", branch: 7, children: [102], firstOrdinal: 2 },
    ]);
  });

  it("routes interleaved tokens to their streams", async () => {
    const { branch, publish, lastRequest } = setUp();
    const first = branch.decode();
    const firstRequest = lastRequest();
    const [child] = branch.fork(1);
    const second = child!.decode();
    const secondRequest = lastRequest();
    const [a] = tokensOf("a");
    const [b] = tokensOf("b");
    publish([
      [secondRequest, b!],
      [firstRequest, a!],
    ]);
    publish(
      [[firstRequest, a!]],
      [
        { request: firstRequest, reason: "length", branchLength: 7 },
        { request: secondRequest, reason: "length", branchLength: 6 },
      ],
    );
    expect((await first).text).toBe("aa");
    expect((await second).text).toBe("b");
    expect([branch.length, child!.length]).toEqual([7, 6]);
  });

  it("passes options on in the native side's spelling", async () => {
    const { branch, commands } = setUp();
    branch.decode({
      temperature: 0.5,
      topK: 3,
      logitBias: { 5: -1 },
      seed: 9,
      stop: ["END"],
      stopTokens: [8],
      maxTokens: 4,
      speculation: { maxDraftTokens: 3 },
    });
    expect(commands).toEqual([
      {
        op: "decode",
        request: 1,
        branch: 7,
        maxTokens: 4,
        stopTokens: [8],
        stopStrings: [Buffer.from("END")],
        sampling: { temperature: 0.5, topK: 3, seed: 9, logitBias: [[5, -1]] },
        speculation: { mode: "auto", maxDraftTokens: 3, sources: ["suffix", "recycling"] },
      },
    ]);
  });

  it("does not show text that turns out to be held back, even when the end comes late", async () => {
    const { branch, publish, lastRequest } = setUp();
    const stream = branch.decode({ stop: ["ab!"] });
    const seen: string[] = [];
    const reading = (async () => {
      for await (const { text } of stream) seen.push(text);
    })();
    const [a, b] = [tokensOf("a")[0]!, tokensOf("b")[0]!];
    publish([[lastRequest(), a]]);
    await settle();
    publish([[lastRequest(), b]]);
    await settle();
    expect(seen.join("")).toBe("");
    publish([], [{ request: lastRequest(), reason: "aborted", branchLength: 7 }]);
    await reading;
    expect(seen.join("")).toBe("ab");
    expect(await stream).toMatchObject({ text: "ab", finishReason: "aborted", tokens: [a, b] });
  });

  it("cancels on abort and stops listening at the end", async () => {
    const { branch, commands, publish, lastRequest } = setUp();
    const controller = new AbortController();
    const stream = branch.decode({ signal: controller.signal });
    const request = lastRequest();
    controller.abort();
    expect(commands.at(-1)).toEqual({ op: "cancel", request });
    publish([], [{ request, reason: "aborted", branchLength: 5 }]);
    expect((await stream).finishReason).toBe("aborted");

    const other = new AbortController();
    const done = branch.decode({ signal: other.signal });
    publish([], [{ request: lastRequest(), reason: "length", branchLength: 5 }]);
    await done;
    other.abort();
    expect(commands.at(-1)).toMatchObject({ op: "decode" });
  });

  it("fails everything that is open with the error that ended the engine, and everything after", async () => {
    const { branch, dispatcher } = setUp();
    const stream = branch.decode();
    const extended = branch.extend([4]);
    const fatal = { code: "E_DEVICE", message: "the device is gone", figures: {} };
    dispatcher.dispatch({
      step: 0,
      timeMs: 0,
      requests: new Uint32Array(),
      tokens: new Int32Array(),
      logprobs: new Float32Array(),
      finished: [],
      fatal,
    });
    await expect(stream.result).rejects.toMatchObject({ code: "E_DEVICE" });
    await expect(extended).rejects.toMatchObject({ code: "E_DEVICE" });
    await expect(branch.score([4])).rejects.toMatchObject({ code: "E_DEVICE" });
    expect(dispatcher.numOpen).toBe(0);
    branch.prune();
  });

  it("ignores what comes for requests that are over", () => {
    const { publish } = setUp();
    publish([[42, 5]], [{ request: 42, reason: "done" }]);
  });
});

describe("errors of the addon", () => {
  it("keep their code and figures", () => {
    const thrown = Object.assign(new Error("no memory"), { code: "E_OOM", figures: { wanted: 10 } });
    expect(fromAddon(thrown)).toMatchObject({
      code: "E_OOM",
      message: "no memory",
      figures: { wanted: 10 },
      cause: thrown,
    });
  });
  it("without a known code are internal", () => {
    expect(fromAddon(new TypeError("x"))).toMatchObject({ code: "E_INTERNAL", message: "x" });
    expect(fromAddon("x")).toMatchObject({ code: "E_INTERNAL", message: "x" });
  });
});
