/** Models that Hugging Face's tools downloaded: `models--org--name/{refs,snapshots}` in the hub cache. Read only, offline. */
import { readdir, readFile, stat } from "node:fs/promises";
import os from "node:os";
import path from "node:path";

/** As huggingface_hub finds it: HF_HUB_CACHE, HF_HOME/hub, XDG_CACHE_HOME/huggingface/hub, ~/.cache/huggingface/hub. */
export function hubCacheFolder(environment: NodeJS.ProcessEnv = process.env): string {
  const explicit = environment.HF_HUB_CACHE || environment.HUGGINGFACE_HUB_CACHE;
  if (explicit) return explicit;
  const cache = environment.XDG_CACHE_HOME || path.join(os.homedir(), ".cache");
  return path.join(environment.HF_HOME || path.join(cache, "huggingface"), "hub");
}

/** True for `org/name`. */
export function isHubModelId(source: string): boolean {
  return /^[A-Za-z0-9][\w.-]{0,95}\/[A-Za-z0-9][\w.-]{0,95}$/.test(source) && !source.includes("..");
}

/** Folder of the snapshot that `main` points to, or undefined when the model is not in the cache. */
export async function findHubSnapshot(modelId: string, cacheFolder = hubCacheFolder()): Promise<string | undefined> {
  const repository = path.join(cacheFolder, `models--${modelId.replace("/", "--")}`);
  const snapshots = path.join(repository, "snapshots");
  const commit = (await readFile(path.join(repository, "refs", "main"), "utf8").catch(() => "")).trim();
  if (/^[0-9a-f]{7,64}$/.test(commit) && (await isFolder(path.join(snapshots, commit))))
    return path.join(snapshots, commit);
  const names = await readdir(snapshots).catch(() => []);
  return names.length === 1 ? path.join(snapshots, names[0]!) : undefined;
}

async function isFolder(folder: string): Promise<boolean> {
  return stat(folder).then(
    (info) => info.isDirectory(),
    () => false,
  );
}
