import { spawnSync } from "node:child_process";
import path from "node:path";
import { describeMachine } from "@deftree/bench";
import { type CudaReport, DeftreeError, Engine, type HostReport, inspectHost } from "@deftree/engine";
import type { Command } from "commander";
import pc from "picocolors";
import { formatBytes, Output } from "../output.js";

/** `absent`: something that deftree can do without. */
type State = "ok" | "absent" | "failed";

interface Finding {
  name: string;
  state: State;
  found: string;
}

const marks: Record<State, string> = { ok: pc.green("ok "), absent: pc.dim("-- "), failed: pc.red("!! ") };

export function addDoctorCommand(program: Command): void {
  program
    .command("doctor")
    .description("what was found on this machine, what was chosen and why")
    .option("-m, --model <model>", "model to load as a check", "mini")
    .option("--json", "print one JSON line instead of text", false)
    .action(doctor);
}

async function doctor(flags: { model: string; json: boolean }): Promise<void> {
  const output = new Output(flags.json);
  const host = inspect();
  const findings = [nodeVersion(), ...buildTools()];
  if (typeof host === "string") findings.push({ name: "native engine", state: "failed", found: host });
  else findings.push(addon(host), ...describeCuda(host.cuda), ...(await loadModel(flags.model)));
  const machine = describeMachine();
  output.line(`${machine.cpu}, ${machine.cores} cores, ${machine.memoryGiB} GiB, ${machine.platform}`);
  for (const { state, name, found } of findings) output.line(`${marks[state]} ${name}: ${found}`);
  output.result({ command: "doctor", machine, findings, cuda: typeof host === "string" ? undefined : host.cuda });
  if (findings.some(({ state }) => state === "failed")) process.exitCode = 1;
}

function nodeVersion(): Finding {
  const [major = 0] = process.versions.node.split(".").map(Number);
  const isNewEnough = major >= 20;
  return {
    name: "Node",
    state: isNewEnough ? "ok" : "failed",
    found: `${process.version}${isNewEnough ? "" : ", at least 20 is needed"}`,
  };
}

function buildTools(): Finding[] {
  const toBuild = "needed to build the native engine only";
  return [
    tool("cmake", ["cmake"], /version [\d.]+/, toBuild),
    tool("C++ compiler", [process.env.CXX, "c++"], /.+/, toBuild),
    tool(
      "nvcc",
      nvccPlaces(),
      /release [\d.]+/,
      "needed to build the CUDA code only, 12.8 or newer; tools/get-cuda installs one",
    ),
  ];
}

function nvccPlaces(): (string | undefined)[] {
  const { CUDACXX, CUDA_HOME } = process.env;
  return [CUDACXX, CUDA_HOME && path.join(CUDA_HOME, "bin", "nvcc"), "nvcc", "/usr/local/cuda/bin/nvcc"];
}

/** The first of `places` that runs. */
function tool(name: string, places: readonly (string | undefined)[], version: RegExp, purpose: string): Finding {
  for (const place of places) {
    if (!place) continue;
    const { status, stdout } = spawnSync(place, ["--version"], { encoding: "utf8" });
    if (status === 0)
      return { name, state: "ok", found: `${version.exec(stdout)?.[0] ?? "unknown version"} (${place})` };
  }
  return { name, state: "absent", found: `not found; ${purpose}` };
}

/** @returns what is wrong, when the addon cannot be loaded. */
function inspect(): HostReport | string {
  try {
    return inspectHost();
  } catch (error) {
    return messageOf(error);
  }
}

function addon(host: HostReport): Finding {
  const features = Object.entries(host.cpuFeatures).filter(([, present]) => present);
  return {
    name: "native engine",
    state: "ok",
    found: `${host.addonVersion}, ${host.cpuLevel} kernels (${features.map(([name]) => name).join(" ")}); org/name models from ${host.hubCache}`,
  };
}

/** Exported for its test: the lines about GPUs. */
export function describeCuda(cuda: CudaReport): Finding[] {
  const { isBuilt, driverVersion, runtimeVersion, devices, problem, cublasLt, cublasLtProblem } = cuda;
  if (!isBuilt) return [{ name: "CUDA", state: "absent", found: problem }];
  const driver = driverVersion === 0 ? "no driver" : `the driver supports ${versionText(driverVersion)}`;
  const build: Finding = {
    name: "CUDA",
    state: devices.length > 0 ? "ok" : "absent",
    found: `built with ${versionText(runtimeVersion)}; ${driver}`,
  };
  const gpus = devices.map(
    ({ index, name, computeCapability, numProcessors, totalBytes, freeBytes }): Finding => ({
      name: `GPU ${index}`,
      state: "ok",
      found:
        `${name}, compute capability ${Math.floor(computeCapability / 10)}.${computeCapability % 10}, ` +
        `${numProcessors} multiprocessors, ${formatGiB(freeBytes)} free of ${formatGiB(totalBytes)}`,
    }),
  );
  if (problem !== "") gpus.push({ name: "GPUs", state: "absent", found: problem });
  // Without a GPU nothing asks for the library; with one, nothing works without it.
  const withoutLibrary = devices.length > 0 ? "failed" : "absent";
  const library: Finding = {
    name: "cuBLASLt",
    state: cublasLt === "" ? withoutLibrary : "ok",
    found: cublasLt === "" ? cublasLtProblem : cublasLt,
  };
  return [build, ...gpus, library];
}

/** 13000 -> "CUDA 13.0" */
function versionText(version: number): string {
  return `CUDA ${Math.floor(version / 1000)}.${Math.floor((version % 1000) / 10)}`;
}

function formatGiB(bytes: number): string {
  return `${(bytes / 2 ** 30).toFixed(1)} GiB`;
}

async function loadModel(model: string): Promise<Finding[]> {
  const name = `model ${model}`;
  try {
    await using engine = await Engine.load(model);
    const { info } = engine;
    return [
      { name: "device", state: "ok", found: `${info.device}, ${info.description} (${info.deviceReason})` },
      {
        name,
        state: "ok",
        found:
          `${info.modelPath}; ${info.weightFormat} weights ${formatBytes(info.weightBytes)}, ${info.kvType} KV for ` +
          `${info.numPages * info.pageSize} tokens ${formatBytes(info.kvBytes)}, context ${info.contextLength}, ${info.attention}`,
      },
    ];
  } catch (error) {
    return [{ name, state: "failed", found: messageOf(error) }];
  }
}

function messageOf(error: unknown): string {
  return DeftreeError.isInstance(error) ? `${error.message} (${error.code})` : String(error);
}
