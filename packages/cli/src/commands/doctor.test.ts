/** What doctor says of GPUs, made up, and of this machine as it is. */
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import type { CudaReport } from "@deftree/engine";
import { describe, expect, it } from "vitest";
import { describeCuda } from "./doctor.js";

const gpu = {
  index: 0,
  name: "NVIDIA H100 80GB HBM3",
  computeCapability: 90,
  numProcessors: 132,
  totalBytes: 85e9,
  freeBytes: 84e9,
};
const withGpu: CudaReport = {
  isBuilt: true,
  driverVersion: 13010,
  runtimeVersion: 13000,
  devices: [gpu],
  problem: "",
  cublasLt: "/usr/local/cuda/lib64/libcublasLt.so.13",
  cublasLtProblem: "",
};
const problem = "no NVIDIA driver was found";

describe("describeCuda", () => {
  it("names build, driver, each GPU and cuBLASLt", () => {
    expect(describeCuda({ ...withGpu, problem: "GPU 1 (Tesla T4) has compute capability 7.5" })).toEqual([
      { name: "CUDA", state: "ok", found: "built with CUDA 13.0; the driver supports CUDA 13.1" },
      {
        name: "GPU 0",
        state: "ok",
        found: "NVIDIA H100 80GB HBM3, compute capability 9.0, 132 multiprocessors, 78.2 GiB free of 79.2 GiB",
      },
      { name: "GPUs", state: "absent", found: "GPU 1 (Tesla T4) has compute capability 7.5" },
      { name: "cuBLASLt", state: "ok", found: "/usr/local/cuda/lib64/libcublasLt.so.13" },
    ]);
  });

  it("is content without a driver, and says so", () => {
    const report = { ...withGpu, driverVersion: 0, devices: [], problem, cublasLt: "", cublasLtProblem: "tried /x" };
    expect(describeCuda(report)).toEqual([
      { name: "CUDA", state: "absent", found: "built with CUDA 13.0; no driver" },
      { name: "GPUs", state: "absent", found: problem },
      { name: "cuBLASLt", state: "absent", found: "tried /x" },
    ]);
  });

  it("fails where a GPU has no cuBLASLt", () => {
    const report = { ...withGpu, cublasLt: "", cublasLtProblem: "tried /x" };
    expect(describeCuda(report).at(-1)).toEqual({ name: "cuBLASLt", state: "failed", found: "tried /x" });
  });

  it("says how to build with CUDA when this is a build without", () => {
    const report = { ...withGpu, isBuilt: false, devices: [], problem: "install nvcc" };
    expect(describeCuda(report)).toEqual([{ name: "CUDA", state: "absent", found: "install nvcc" }]);
  });
});

describe("deftree doctor --json", () => {
  const main = fileURLToPath(new URL("../main.ts", import.meta.url));
  const doctor = (environment: NodeJS.ProcessEnv = {}) => {
    const args = ["--import", "tsx", "--conditions", "@deftree/source", main, "doctor", "--json"];
    const { status, stdout } = spawnSync(process.execPath, args, {
      encoding: "utf8",
      env: { ...process.env, ...environment },
    });
    return { status, report: JSON.parse(stdout) };
  };

  it("loads the model and says which device was chosen and why", () => {
    const { status, report } = doctor();
    expect(status).toBe(0);
    expect(typeof report.cuda.isBuilt).toBe("boolean");
    expect(report.cuda.devices.length > 0 || report.cuda.problem !== "").toBe(true);
    const device = report.findings.find(({ name }: { name: string }) => name === "device");
    expect(device.found).toMatch(/^(cpu|cuda), .*\(auto: .+\)$/);
  });

  it("fails with the ways out when the addon cannot be loaded", () => {
    const { status, report } = doctor({ DEFTREE_ADDON: "/nowhere/deftree.node" });
    expect(status).toBe(1);
    const engine = report.findings.find(({ name }: { name: string }) => name === "native engine");
    expect(engine).toMatchObject({ state: "failed", found: expect.stringContaining("E_ADDON_MISSING") });
  });
});
