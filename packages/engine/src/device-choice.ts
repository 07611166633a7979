/** Which device a model runs on, and why. A pure function of the options, the model and what the addon says of GPUs. */
import type { EngineOptions } from "./engine-types.js";
import { DeftreeError } from "./errors.js";
import type { ModelFiles } from "./model-files.js";
import type { NativeAddon, NativeCudaDevice, NativeCudaStatus } from "./native-addon.js";

/** The part of the addon that knows of GPUs. */
export type CudaQueries = Pick<NativeAddon, "cudaStatus" | "cudaMemory">;

export type DeviceChoice =
  | { device: "cpu"; reason: string }
  /** `kvTokens`: how many fit beside the model. */
  | { device: "cuda"; reason: string; gpu: NativeCudaDevice; kvTokens: number };

export const cudaPageSize = 16;
/** Chunks of a prefill this long keep the tensor cores busy. */
export const cudaMaxStepTokens = 4096;
/** The share of a GPU's free memory that a load plans with; the rest is left for the driver and for what was estimated. */
const usableShare = 0.9;
/** Fewer KV tokens than this (or than a context, where that is shorter) are not worth a GPU. */
const leastKvTokens = 4096;
/** KV pages for more contexts than this are not taken by default, however much memory there is. */
const contextsHeld = 64;

/**
 * `"auto"` takes the GPU with the most free memory, or the one of `deviceIndex`, if it has room for the model and the KV of
 * `kvTokens` (by default 4096 tokens, or one context if that is shorter); else the CPU, with the reason.
 * @param cuda asked only when the answer may be a GPU.
 * @throws E_DEVICE for `"cuda"` with no usable GPU, with the reason; E_BAD_ARGUMENT for `"cuda"` with options or a model that
 *   it has no kernels for.
 */
export function chooseDevice(options: EngineOptions, model: ModelFiles, cuda: CudaQueries): DeviceChoice {
  const { device = "auto" } = options;
  if (device === "cpu") return { device, reason: "cpu: asked for" };
  const unsupported = whatCudaLacks(options, model);
  if (unsupported !== undefined) {
    if (device === "cuda") throw new DeftreeError("E_BAD_ARGUMENT", `device "cuda" cannot be used: ${unsupported}`);
    return { device: "cpu", reason: `auto: ${unsupported}` };
  }
  const gpu = pickGpu(cuda.cudaStatus(), options.deviceIndex);
  if (typeof gpu === "string") {
    if (device === "cuda") throw new DeftreeError("E_DEVICE", `device "cuda" cannot be used: ${gpu}`);
    return { device: "cpu", reason: `auto: ${gpu}` };
  }
  const { bytesWithoutKv, kvBytesPerToken } = cuda.cudaMemory(model.config, options.maxStepTokens ?? cudaMaxStepTokens);
  const contextLen = options.contextLength ?? model.config.contextLen;
  const leastTokens = options.kvTokens ?? Math.min(leastKvTokens, contextLen);
  const usableBytes = usableShare * gpu.freeBytes;
  const fittingPages = Math.floor((usableBytes - bytesWithoutKv) / kvBytesPerToken / cudaPageSize);
  const mostTokens = Math.min(fittingPages * cudaPageSize, contextsHeld * contextLen);
  const kvTokens = options.kvTokens ?? Math.max(leastTokens, mostTokens);
  if (device === "cuda") return { device, reason: `cuda: asked for; ${nameOf(gpu)}`, gpu, kvTokens };
  const wantedBytes = bytesWithoutKv + leastTokens * kvBytesPerToken;
  const room =
    `${nameOf(gpu)} has ${gib(gpu.freeBytes)} free, ` +
    `${model.name} wants ${gib(wantedBytes)} with ${leastTokens} tokens of KV`;
  if (wantedBytes <= usableBytes) return { device: "cuda", reason: `auto: ${room}`, gpu, kvTokens };
  return { device: "cpu", reason: `auto: ${room}; ${100 * usableShare}% of what is free may be used` };
}

/** Why neither this GPU nor any other can run the model with these options. */
export function whatCudaLacks(options: EngineOptions, { config, tensors }: ModelFiles): string | undefined {
  const { weights = "auto", kvType = "auto", pageSize = cudaPageSize } = options;
  if (weights !== "auto" && weights !== "bf16") return `weights "${weights}" are the CPU's, a GPU keeps bf16`;
  if (kvType !== "auto" && kvType !== "bf16") return `kvType "${kvType}" is the CPU's, a GPU keeps bf16`;
  if (pageSize !== cudaPageSize) return `pageSize is ${pageSize}, on a GPU pages hold ${cudaPageSize} tokens`;
  const quantised = tensors.find(({ dtype }) => !["F32", "F16", "BF16"].includes(dtype));
  if (quantised) return `${quantised.name} is ${quantised.dtype}, a GPU takes weights in F32, F16 or BF16`;
  if (config.headDim !== 64 && config.headDim !== 128)
    return `head_dim is ${config.headDim}, on a GPU there are kernels for 64 and 128`;
  return undefined;
}

function pickGpu({ devices, problem }: NativeCudaStatus, deviceIndex: number | undefined): NativeCudaDevice | string {
  if (devices.length === 0) return problem;
  if (deviceIndex === undefined) return devices.reduce((best, each) => (each.freeBytes > best.freeBytes ? each : best));
  const usable = devices.map(nameOf).join(", ");
  const missing = `there is no usable GPU ${deviceIndex}; usable: ${usable}${problem === "" ? "" : `; ${problem}`}`;
  return devices.find(({ index }) => index === deviceIndex) ?? missing;
}

function nameOf({ index, name }: NativeCudaDevice): string {
  return `GPU ${index} (${name})`;
}

function gib(bytes: number): string {
  return `${(bytes / 2 ** 30).toFixed(1)} GiB`;
}
