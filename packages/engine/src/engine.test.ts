/** What an engine does when its native side dies, over a scripted addon. */
import { expect, it } from "vitest";
import { Engine } from "./engine.js";
import type { NativeAddon, NativeCommand, NativeEngine, NativeStepMessage } from "./native-addon.js";
import { randomModel } from "./random-model.js";

async function scriptedEngine() {
  let publish!: (message: NativeStepMessage) => void;
  const submitted: NativeCommand[] = [];
  const native = {
    info: () => ({ device: "cuda" }),
    submit: (commands: NativeCommand[]) => void submitted.push(...commands),
    stats: () => ({}),
    checkInvariants: async () => {},
    dispose: async () => {},
  } as unknown as NativeEngine;
  const addon = {
    load: async (_: unknown, onStep: typeof publish) => {
      publish = onStep;
      return native;
    },
  } as unknown as NativeAddon;
  const engine = await Engine.fromFiles(randomModel("random:tiny"), { device: "cpu" }, addon);
  return { engine, submitted, publish };
}

it("rejects everything with the cause after a device error, and can still be disposed", async () => {
  const { engine, submitted, publish } = await scriptedEngine();
  const branch = engine.branch();
  const running = branch.extend([1, 2]);
  publish({
    step: 7,
    timeMs: 0,
    requests: new Uint32Array(),
    tokens: new Int32Array(),
    logprobs: new Float32Array(),
    finished: [],
    fatal: { code: "E_DEVICE", message: "work on the GPU failed: an illegal memory access", figures: { step: 7 } },
  });
  const cause = { code: "E_DEVICE", message: expect.stringContaining("illegal memory access"), figures: { step: 7 } };
  await expect(running).rejects.toMatchObject(cause);
  const numSubmitted = submitted.length;
  await expect(branch.extend([3])).rejects.toMatchObject(cause);
  await expect(branch.decode().result).rejects.toMatchObject(cause);
  await expect(branch.score([3])).rejects.toMatchObject(cause);
  await expect(branch.logits()).rejects.toMatchObject(cause);
  await expect(branch.truncate(0)).rejects.toMatchObject(cause);
  await expect(engine.checkInvariants()).rejects.toMatchObject(cause);
  for (const call of [
    () => engine.branch(),
    () => branch.fork(2),
    () => engine.stats(),
    () => engine.setAttention("radix"),
  ]) {
    expect(call).toThrow(expect.objectContaining(cause));
  }
  branch.prune();
  expect(submitted).toHaveLength(numSubmitted);
  await engine.dispose();
});
