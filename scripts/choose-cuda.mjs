// Which nvcc compiles the CUDA code and for which GPUs, by what this machine has.
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { delimiter, join } from "node:path";

const leastVersion = [12, 8];
const allArchitectures = "80;89;90a";

/**
 * Looks at $CUDACXX, $CUDA_HOME, $CUDA_PATH, PATH, /usr/local/cuda* and what tools/get-cuda installed, in this order, unless
 * DEFTREE_CUDA is "off".
 *
 * @param {string} root the repository
 * @returns {{ nvcc?: string, architectures?: string, reason: string }} reason: one line that says what was chosen and why
 */
export function chooseCuda(root, environment = process.env) {
  if (environment.DEFTREE_CUDA === "off") return { reason: 'off: DEFTREE_CUDA is "off"' };
  const tooOld = [];
  for (const nvcc of nvccCandidates(root, environment)) {
    const version = nvccVersion(nvcc);
    if (!version) continue;
    if (version[0] > leastVersion[0] || (version[0] === leastVersion[0] && version[1] >= leastVersion[1])) {
      const { architectures, why } = chooseArchitectures(environment);
      const compiler = `nvcc ${version.join(".")} (${nvcc})`;
      return { nvcc, architectures, reason: `${compiler} for ${architectures.replaceAll(";", ",")}: ${why}` };
    }
    tooOld.push(`${nvcc} is ${version.join(".")}`);
  }
  const passedOver = tooOld.length > 0 ? ` (${tooOld.join(", ")})` : "";
  return {
    reason: `off: no nvcc ${leastVersion.join(".")} or newer was found${passedOver}; tools/get-cuda installs one`,
  };
}

function nvccCandidates(root, { CUDACXX, CUDA_HOME, CUDA_PATH, PATH = "" }) {
  const toolkits = existsSync("/usr/local") ? readdirSync("/usr/local").filter((name) => name.startsWith("cuda")) : [];
  const newestFirst = toolkits.sort((a, b) => b.localeCompare(a, "en", { numeric: true }));
  const folders = [
    ...[CUDA_HOME, CUDA_PATH].filter(Boolean).map((toolkit) => join(toolkit, "bin")),
    ...PATH.split(delimiter).filter(Boolean),
    ...newestFirst.map((name) => join("/usr/local", name, "bin")),
    join(root, "build", "cuda-toolkit", "nvidia", "cu13", "bin"),
  ];
  const files = [...(CUDACXX ? [CUDACXX] : []), ...folders.map((folder) => join(folder, "nvcc"))];
  return [...new Set(files)].filter((file) => existsSync(file));
}

/** @returns {[number, number] | undefined} */
function nvccVersion(nvcc) {
  const { stdout } = spawnSync(nvcc, ["--version"], { encoding: "utf8" });
  const [, major, minor] = /release (\d+)\.(\d+)/.exec(stdout ?? "") ?? [];
  return major === undefined ? undefined : [Number(major), Number(minor)];
}

/** Machine code for the GPUs that are here takes a third of the time that code for all supported ones does. */
function chooseArchitectures(environment) {
  const asked = environment.DEFTREE_CUDA_ARCHS;
  if (asked) return { architectures: asked.replaceAll(",", ";"), why: "DEFTREE_CUDA_ARCHS" };
  const query = ["--query-gpu=compute_cap", "--format=csv,noheader"];
  const { status, stdout } = spawnSync("nvidia-smi", query, { encoding: "utf8" });
  const found = status === 0 ? [...stdout.matchAll(/^(\d+)\.(\d)\s*$/gm)].map(([, major, minor]) => major + minor) : [];
  const usable = [...new Set(found)].filter((capability) => Number(capability) >= 80);
  if (usable.length === 0) return { architectures: allArchitectures, why: "no GPU is here to choose by" };
  // Hopper's own instructions are in 90a.
  const architectures = usable.map((capability) => (capability === "90" ? "90a" : capability)).join(";");
  return { architectures, why: "the GPUs that are here" };
}
