import { spawnSync } from "node:child_process";
import { describeMachine } from "@deftree/bench";
import { DeftreeError, Engine, inspectHost } from "@deftree/engine";
import type { Command } from "commander";
import pc from "picocolors";
import { formatBytes, Output } from "../output.js";

interface Finding {
  name: string;
  ok: boolean;
  found: string;
}

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
  const findings = [
    nodeVersion(),
    tool("cmake", "to build the native engine"),
    tool("c++", "to build the native engine"),
  ];
  findings.push(addon(), ...(await loadModel(flags.model)));
  const machine = describeMachine();
  output.line(`${machine.cpu}, ${machine.cores} cores, ${machine.memoryGiB} GiB, ${machine.platform}`);
  for (const { ok, name, found } of findings) output.line(`${ok ? pc.green("ok ") : pc.red("!! ")} ${name}: ${found}`);
  output.result({ command: "doctor", machine, findings });
  if (findings.some((finding) => !finding.ok)) process.exitCode = 1;
}

function nodeVersion(): Finding {
  const [major = 0] = process.versions.node.split(".").map(Number);
  return { name: "Node", ok: major >= 20, found: `${process.version}${major >= 20 ? "" : ", at least 20 is needed"}` };
}

function tool(command: string, purpose: string): Finding {
  const { status, stdout } = spawnSync(command, ["--version"], { encoding: "utf8" });
  const [version] = (stdout ?? "").split("\n");
  return { name: command, ok: status === 0, found: status === 0 ? (version ?? "") : `not found; needed ${purpose}` };
}

function addon(): Finding {
  try {
    const host = inspectHost();
    const features = Object.entries(host.cpuFeatures).filter(([, present]) => present);
    return {
      name: "native engine",
      ok: true,
      found: `${host.addonVersion}, ${host.cpuLevel} kernels (${features.map(([name]) => name).join(" ")}); org/name models from ${host.hubCache}`,
    };
  } catch (error) {
    return { name: "native engine", ok: false, found: messageOf(error) };
  }
}

async function loadModel(model: string): Promise<Finding[]> {
  const name = `model ${model}`;
  try {
    await using engine = await Engine.load(model);
    const { info } = engine;
    return [
      { name: "device", ok: true, found: `${info.device}: ${info.deviceReason}; ${info.description}` },
      {
        name,
        ok: true,
        found:
          `${info.modelPath}; ${info.weightFormat} weights ${formatBytes(info.weightBytes)}, ${info.kvType} KV for ` +
          `${info.numPages * info.pageSize} tokens ${formatBytes(info.kvBytes)}, context ${info.contextLength}, ${info.attention}`,
      },
    ];
  } catch (error) {
    return [{ name, ok: false, found: messageOf(error) }];
  }
}

function messageOf(error: unknown): string {
  return DeftreeError.isInstance(error) ? `${error.message} (${error.code})` : String(error);
}
