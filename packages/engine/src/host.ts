import { loadAddon } from "./addon-loader.js";
import { hubCacheFolder } from "./hub-cache.js";
import type { NativeAddon, NativeCudaStatus } from "./native-addon.js";
import { fromAddon } from "./step-dispatcher.js";

/** GPUs, driver and build, as the addon sees them. */
export interface CudaReport extends NativeCudaStatus {
  /** The library of matrix products that was found, "" for none. */
  cublasLt: string;
  /** Where it was looked for when there is none. */
  cublasLtProblem: string;
}

/** What deftree found on this machine; for `deftree doctor` and bug reports. */
export interface HostReport {
  addonVersion: string;
  /** The instruction set whose kernels run: "scalar", "avx2", "avx512", "amx". */
  cpuLevel: string;
  cpuFeatures: Record<string, boolean>;
  /** Which GPUs can be used, and why others cannot. */
  cuda: CudaReport;
  /** Where models given as org/name are looked up. */
  hubCache: string;
}

/** Looks at this machine. @throws E_ADDON_MISSING when the native addon cannot be loaded, with every attempt's error. */
export function inspectHost(): HostReport {
  const addon = loadAddon();
  return {
    addonVersion: addon.version,
    cpuLevel: addon.cpu.level,
    cpuFeatures: addon.cpu.features,
    cuda: inspectCuda(addon),
    hubCache: hubCacheFolder(),
  };
}

function inspectCuda(addon: NativeAddon): CudaReport {
  const status = addon.cudaStatus();
  try {
    return { ...status, cublasLt: addon.findCublasLt(), cublasLtProblem: "" };
  } catch (error) {
    return { ...status, cublasLt: "", cublasLtProblem: fromAddon(error).message };
  }
}
