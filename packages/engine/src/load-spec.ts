/** From a model's files and the user's options to what the addon loads: every default is decided here. */
import {
  type CudaQueries,
  chooseDevice,
  cudaMaxStepTokens,
  cudaPageSize,
  type DeviceChoice,
  whatCudaLacks,
} from "./device-choice.js";
import { type LoadedSources, nativeSpeculation } from "./draft-source.js";
import type { EngineOptions } from "./engine-types.js";
import { DeftreeError } from "./errors.js";
import type { ModelFiles } from "./model-files.js";
import type { NativeLoadSpec, NativeMedusa, NativeModelSpec } from "./native-addon.js";
import type { TokenByteTable } from "./token-bytes.js";

const cpuPageSize = 16;
const cpuMaxStepTokens = 256;
const cpuKvBytes = 2 ** 30;
const cpuContextsHeld = 4;

export interface Drafting {
  sources: LoadedSources;
  /** Has the vocabulary of the model it drafts for. */
  model?: ModelFiles | undefined;
  medusa?: NativeMedusa | undefined;
}

/**
 * @returns the spec, and why its device was chosen.
 * @throws E_BAD_ARGUMENT, E_DEVICE
 */
export function makeLoadSpec(
  model: ModelFiles,
  options: EngineOptions,
  byteTable: TokenByteTable,
  addon: CudaQueries,
  { sources, model: draft, medusa }: Drafting,
): { spec: NativeLoadSpec; deviceReason: string } {
  const contextLen = contextLength(model, options);
  const cuda = draft ? besideDraftModel(addon, draft) : addon;
  const choice = chooseDevice(options, model, cuda);
  if (draft) checkCanBeOn(choice.device, draft, options);
  const pageSize = options.pageSize ?? (choice.device === "cuda" ? cudaPageSize : cpuPageSize);
  const kvTokens = options.kvTokens ?? defaultKvTokens(model, options, choice, contextLen);
  const spec: NativeLoadSpec = {
    config: { ...model.config, contextLen },
    files: model.files,
    tensors: model.tensors,
    ...(model.randomSeed === undefined ? {} : { randomSeed: model.randomSeed }),
    device: choice.device,
    deviceIndex: choice.device === "cuda" ? choice.gpu.index : 0,
    weights: options.weights ?? "auto",
    kvType: options.kvType ?? "auto",
    numPages: Math.ceil(kvTokens / pageSize),
    pageSize,
    numThreads: options.threads ?? 0,
    attention: options.attention ?? "deft-flatten",
    speculation: nativeSpeculation(options.speculation ?? "off", sources),
    maxStepTokens: options.maxStepTokens ?? (choice.device === "cuda" ? cudaMaxStepTokens : cpuMaxStepTokens),
    profile: options.profile ?? false,
    tokenBytes: byteTable.bytes,
    tokenByteOffsets: byteTable.offsets,
  };
  if (draft) spec.draftModel = draftModelSpec(draft, spec);
  if (medusa) spec.medusa = medusa;
  return { spec, deviceReason: choice.reason };
}

/** Weights and KV as the draft model has them; pages for as many tokens, since its branches are those of the model. */
function draftModelSpec({ config, files, tensors, randomSeed }: ModelFiles, spec: NativeLoadSpec): NativeModelSpec {
  const { deviceIndex, numPages, pageSize, numThreads, maxStepTokens, profile } = spec;
  return {
    config: { ...config, contextLen: Math.min(config.contextLen, spec.config.contextLen) },
    files,
    tensors,
    ...(randomSeed !== undefined && { randomSeed }),
    weights: "auto",
    kvType: "auto",
    ...{ deviceIndex, numPages, pageSize, numThreads, maxStepTokens, profile },
  };
}

/** What a GPU has to hold when a draft model is there, too. */
function besideDraftModel(cuda: CudaQueries, draft: ModelFiles): CudaQueries {
  return {
    cudaStatus: () => cuda.cudaStatus(),
    cudaMemory(config, maxStepTokens) {
      const [model, more] = [config, draft.config].map((each) => cuda.cudaMemory(each, maxStepTokens));
      return {
        bytesWithoutKv: model!.bytesWithoutKv + more!.bytesWithoutKv,
        kvBytesPerToken: model!.kvBytesPerToken + more!.kvBytesPerToken,
      };
    },
  };
}

function checkCanBeOn(device: "cpu" | "cuda", draft: ModelFiles, { pageSize }: EngineOptions): void {
  const lacks = device === "cuda" ? whatCudaLacks({ pageSize }, draft) : undefined;
  if (lacks === undefined) return;
  throw new DeftreeError("E_BAD_ARGUMENT", `the draft model ${draft.name} cannot be on a GPU: ${lacks}`);
}

function contextLength({ config }: ModelFiles, options: EngineOptions): number {
  const contextLength = options.contextLength ?? config.contextLen;
  if (contextLength > config.contextLen) {
    throw new DeftreeError(
      "E_BAD_ARGUMENT",
      `contextLength ${contextLength} is above the model's ${config.contextLen} tokens`,
      { figures: { contextLength, modelContextLength: config.contextLen } },
    );
  }
  return contextLength;
}

function defaultKvTokens(model: ModelFiles, options: EngineOptions, choice: DeviceChoice, contextLen: number): number {
  if (choice.device === "cuda") return choice.kvTokens;
  const { config, tensors } = model;
  const { kvType = "auto", weights = "auto" } = options;
  const hasF32Tensors = tensors.length > 0 && tensors.every(({ dtype }) => dtype === "F32");
  const isF32 = weights === "f32" || (weights === "auto" && hasF32Tensors);
  const elementBytes = kvType === "f32" || (kvType === "auto" && isF32) ? 4 : 2;
  const bytesPerToken = 2 * config.numLayers * config.numKvHeads * config.headDim * elementBytes;
  return Math.max(contextLen, Math.min(cpuContextsHeld * contextLen, Math.floor(cpuKvBytes / bytesPerToken)));
}
