import { expect, it, vi } from "vitest";
import { CommandBatch } from "./command-batch.js";
import { DeftreeError } from "./errors.js";
import type { NativeCommand, NativeEngine } from "./native-addon.js";
import { StepDispatcher } from "./step-dispatcher.js";

const cancel = (request: number): NativeCommand => ({ op: "cancel", request });
const turn = () => new Promise<void>((resolve) => setImmediate(resolve));

/** A native side that refuses the cancel of a negative request, and with it the whole submission. */
function setUp() {
  const submitted: NativeCommand[][] = [];
  const submit = (commands: NativeCommand[]) => {
    if (commands.some((command) => "request" in command && command.request < 0)) {
      throw Object.assign(new Error("malformed"), { code: "E_BAD_ARGUMENT", figures: {} });
    }
    submitted.push(commands);
  };
  const dispatcher = new StepDispatcher();
  return { batch: new CommandBatch({ submit } as NativeEngine, dispatcher), dispatcher, submitted };
}

it("submits together what comes in one turn, promises that resolve in it included", async () => {
  const { batch, submitted } = setUp();
  batch.add([cancel(1)]);
  void (async () => {
    for (let i = 2; i < 5; i++) {
      await null;
      batch.add([cancel(i), cancel(10 * i)]);
    }
  })();
  await turn();
  batch.add([cancel(5)]);
  await turn();
  expect(submitted).toEqual([[1, 2, 20, 3, 30, 4, 40].map(cancel), [cancel(5)]]);
});

it("flushes at once when asked, and then nothing twice", async () => {
  const { batch, submitted } = setUp();
  batch.add([cancel(1)]);
  batch.flush();
  batch.flush();
  expect(submitted).toEqual([[cancel(1)]]);
  await turn();
  expect(submitted).toHaveLength(1);
});

it("fails the request of a refused command and no other", async () => {
  const { batch, dispatcher, submitted } = setUp();
  const fail = vi.fn();
  const finish = () => {};
  const bad = -1;
  const good = dispatcher.open({ finish, fail });
  // The dispatcher counts requests from 1, so the refused one has to be put in its place.
  const refused = vi.spyOn(dispatcher, "fail");
  batch.add([cancel(good), cancel(bad), { op: "prune", branch: 3, keepCached: false }]);
  await turn();
  expect(submitted).toEqual([[cancel(good)], [{ op: "prune", branch: 3, keepCached: false }]]);
  expect(refused.mock.calls).toEqual([[bad, expect.objectContaining({ code: "E_BAD_ARGUMENT" })]]);
  expect(fail).not.toHaveBeenCalled();
});

it("submits nothing to an engine that has ended", async () => {
  const { batch, dispatcher, submitted } = setUp();
  batch.add([cancel(1)]);
  dispatcher.failAll(new DeftreeError("E_DISPOSED", "gone"));
  await turn();
  expect(submitted).toEqual([]);
});

it("does not wait for timers that a test has replaced", async () => {
  vi.useFakeTimers();
  try {
    const { batch, submitted } = setUp();
    batch.add([cancel(1)]);
    vi.useRealTimers();
    await turn();
    expect(submitted).toHaveLength(1);
  } finally {
    vi.useRealTimers();
  }
});
