/** Every way the device can be chosen, over made-up GPUs. */
import { describe, expect, it } from "vitest";
import { type CudaQueries, chooseDevice } from "./device-choice.js";
import type { EngineOptions } from "./engine-types.js";
import { makeLoadSpec } from "./load-spec.js";
import type { ModelFiles } from "./model-files.js";
import type { NativeCudaDevice, NativeCudaStatus } from "./native-addon.js";
import { randomModel, TokenIdsOnly } from "./random-model.js";

const gib = 2 ** 30;
const bytesWithoutKv = 2 * gib;
const kvBytesPerToken = 2 ** 17;

function gpu(freeBytes: number, index = 0, name = "Test GPU"): NativeCudaDevice {
  return { index, name, computeCapability: 90, numProcessors: 132, totalBytes: 80 * gib, freeBytes };
}

function cuda(devices: NativeCudaDevice[], problem = ""): CudaQueries {
  const status: NativeCudaStatus = { isBuilt: true, driverVersion: 13000, runtimeVersion: 13000, devices, problem };
  return { cudaStatus: () => status, cudaMemory: () => ({ bytesWithoutKv, kvBytesPerToken }) };
}

const untouchable: CudaQueries = {
  cudaStatus: () => expect.unreachable("the driver was asked"),
  cudaMemory: () => expect.unreachable("the memory was asked for"),
};

const model = randomModel("random:llama-3-8b");
const noDriver = "no NVIDIA driver was found";

describe("chooseDevice", () => {
  it("asks no driver when the CPU is asked for", () => {
    expect(chooseDevice({ device: "cpu" }, model, untouchable)).toEqual({ device: "cpu", reason: "cpu: asked for" });
  });

  it.each([
    [{ weights: "int8" }, /weights "int8".*bf16/],
    [{ weights: "f32" }, /weights "f32".*bf16/],
    [{ kvType: "f16" }, /kvType "f16".*bf16/],
    [{ pageSize: 32 }, /pageSize is 32.*16/],
  ] as [EngineOptions, RegExp][])("takes the CPU for %j, and refuses it on a GPU", (options, reason) => {
    expect(chooseDevice(options, model, untouchable)).toEqual({ device: "cpu", reason: expect.stringMatching(reason) });
    expect(() => chooseDevice({ ...options, device: "cuda" }, model, untouchable)).toThrow(
      expect.objectContaining({ code: "E_BAD_ARGUMENT", message: expect.stringMatching(reason) }),
    );
  });

  it("takes the CPU for a head_dim and a weight type without kernels", () => {
    const config = { ...model.config, headDim: 96 };
    expect(chooseDevice({}, { ...model, config }, untouchable).reason).toMatch(/head_dim is 96/);
    const tensor = { name: "model.norm.weight", file: 0, offset: 0, bytes: 1, dtype: "Q4_K", shape: [1] };
    const quantised: ModelFiles = { ...model, tensors: [tensor] };
    expect(chooseDevice({}, quantised, untouchable).reason).toMatch(/model\.norm\.weight is Q4_K/);
  });

  it("takes the CPU when no GPU can be used, and says why", () => {
    expect(chooseDevice({}, model, cuda([], noDriver))).toEqual({ device: "cpu", reason: `auto: ${noDriver}` });
    expect(() => chooseDevice({ device: "cuda" }, model, cuda([], noDriver))).toThrow(
      expect.objectContaining({ code: "E_DEVICE", message: `device "cuda" cannot be used: ${noDriver}` }),
    );
  });

  it("takes the GPU with the most free memory, or the one that is named", () => {
    const two = cuda([gpu(20 * gib, 0), gpu(60 * gib, 2, "Other GPU")]);
    const byItself = chooseDevice({}, model, two);
    expect(byItself).toMatchObject({ device: "cuda", gpu: { index: 2 } });
    expect(byItself.reason).toMatch(/^auto: GPU 2 \(Other GPU\) has 60\.0 GiB free, random:llama-3-8b wants 2\.5 GiB/);
    expect(chooseDevice({ deviceIndex: 0 }, model, two)).toMatchObject({ device: "cuda", gpu: { index: 0 } });
    expect(chooseDevice({ deviceIndex: 1 }, model, two).reason).toMatch(/no usable GPU 1; usable: GPU 0 .*GPU 2/);
    expect(() => chooseDevice({ device: "cuda", deviceIndex: 1 }, model, two)).toThrow(
      expect.objectContaining({ code: "E_DEVICE" }),
    );
  });

  it("takes the CPU when the model has no room: 90% of what is free counts", () => {
    const wanted = bytesWithoutKv + 4096 * kvBytesPerToken;
    const enough = Math.ceil(wanted / 0.9);
    expect(chooseDevice({}, model, cuda([gpu(enough)])).device).toBe("cuda");
    const tooSmall = chooseDevice({}, model, cuda([gpu(enough - 1000)]));
    expect(tooSmall.device).toBe("cpu");
    expect(tooSmall.reason).toMatch(/has 2\.8 GiB free.*wants 2\.5 GiB with 4096 tokens of KV; 90%/);
    expect(chooseDevice({ kvTokens: 2 ** 20 }, model, cuda([gpu(80 * gib)])).device).toBe("cpu");
  });
});

describe("makeLoadSpec", () => {
  const { byteTable } = new TokenIdsOnly(model.config.vocabSize);
  const specOf = (options: EngineOptions, queries: CudaQueries) =>
    makeLoadSpec(model, options, byteTable, queries, { sources: { names: ["suffix"] } }).spec;

  it("fills 90% of the free memory with KV pages, but holds no more than 64 contexts", () => {
    const spec = specOf({ device: "cuda" }, cuda([gpu(20 * gib, 3)]));
    expect(spec).toMatchObject({ device: "cuda", deviceIndex: 3, pageSize: 16, maxStepTokens: 4096 });
    const left = 0.9 * 20 * gib - bytesWithoutKv - spec.numPages * 16 * kvBytesPerToken;
    expect(left).toBeGreaterThanOrEqual(0);
    expect(left).toBeLessThan(16 * kvBytesPerToken);
    const roomy = specOf({ device: "cuda", contextLength: 1024 }, cuda([gpu(80 * gib)]));
    expect(roomy.numPages * 16).toBe(64 * 1024);
  });

  it("asks for 4096 tokens, or one context, even where they do not fit: the load then says what is missing", () => {
    const full = cuda([gpu(gib)]);
    expect(specOf({ device: "cuda" }, full).numPages).toBe(4096 / 16);
    expect(specOf({ device: "cuda", contextLength: 512 }, full).numPages).toBe(512 / 16);
  });

  it("takes what is asked for", () => {
    const asked = { device: "cuda", kvTokens: 1000, maxStepTokens: 512, profile: true } as const;
    expect(specOf(asked, cuda([gpu(80 * gib)]))).toMatchObject({ numPages: 63, maxStepTokens: 512, profile: true });
    expect(specOf({ device: "cpu" }, untouchable)).toMatchObject({ device: "cpu", maxStepTokens: 256, profile: false });
  });
});
