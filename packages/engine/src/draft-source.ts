/** Where drafts come from, as the user names it: what is valid, and what the native side is told. */
import type {
  DraftModelSource,
  DraftSource,
  EngineOptions,
  MedusaSource,
  Speculation,
  SpeculationOptions,
} from "./engine-types.js";
import { DeftreeError } from "./errors.js";
import type { DraftSourceName, NativeSpeculation } from "./native-addon.js";
import type { TokenByteTable } from "./token-bytes.js";

/** An engine's sources, as loaded. */
export interface LoadedSources {
  /** Those that its decodes may name. */
  names: readonly DraftSourceName[];
  /** `"custom"`, where a decode brings none of its own. */
  custom?: DraftSource;
}

/**
 * A draft model's tokens must be the model's.
 * @throws E_BAD_ARGUMENT with the first token that differs.
 */
export function checkSameVocabulary(model: TokenByteTable, draft: TokenByteTable, name: string): void {
  const vocabSize = model.offsets.length - 1;
  const draftVocabSize = draft.offsets.length - 1;
  const bytesOf = ({ bytes, offsets }: TokenByteTable, token: number) =>
    bytes.subarray(offsets[token], offsets[token + 1]);
  const isSame = (token: number) => Buffer.compare(bytesOf(model, token), bytesOf(draft, token)) === 0;
  const most = Math.min(vocabSize, draftVocabSize);
  let token = 0;
  while (token < most && isSame(token)) token++;
  if (vocabSize === draftVocabSize && token === most) return;
  throw new DeftreeError(
    "E_BAD_ARGUMENT",
    `${name} cannot draft for this model: it has ${draftVocabSize} tokens, the model ${vocabSize}; ` +
      (token < most ? `token ${token} is another` : `the first ${most} are the same`),
    { figures: { vocabSize, draftVocabSize, token } },
  );
}

type AnySource = NonNullable<SpeculationOptions["sources"]>[number];

/** Sources that need nothing loaded. */
const ownSources: readonly DraftSourceName[] = ["suffix", "recycling"];
const maxDraftTokens = 1024;

/** What an engine loads for drafts. Checked before. */
export function sourcesToLoad({ speculation }: EngineOptions): {
  loaded: LoadedSources;
  model?: string;
  heads?: string;
} {
  const sources = sourcesOf(speculation);
  const custom = sources.find(isCustom);
  const model = sources.find(isModel)?.model;
  const heads = sources.find(isMedusa)?.heads;
  const names = new Set([...ownSources, ...sources.map(nameOf)]);
  return {
    loaded: { names: [...names], ...(custom && { custom }) },
    ...(model !== undefined && { model }),
    ...(heads !== undefined && { heads }),
  };
}

/** The source of one's own that a decode uses. */
export function customSource(speculation: Speculation | undefined, loaded: LoadedSources): DraftSource | undefined {
  return sourcesOf(speculation).find(isCustom) ?? loaded.custom;
}

/** What the native side is told, defaults filled in: sources that are not named are those that were loaded. */
export function nativeSpeculation(speculation: Speculation, loaded: LoadedSources): NativeSpeculation {
  if (typeof speculation === "string") return { mode: speculation, maxDraftTokens: 32, sources: [...loaded.names] };
  const { mode = "auto", maxDraftTokens = 32, sources } = speculation;
  return { mode, maxDraftTokens, sources: sources ? [...new Set(sources.map(nameOf))] : [...loaded.names] };
}

/**
 * @param loaded the engine's sources; left out: those to load are named.
 * @throws E_BAD_ARGUMENT
 */
export function checkSpeculation(speculation: Speculation | undefined, loaded?: LoadedSources): void {
  if (speculation === undefined || speculation === "off" || speculation === "auto") return;
  if (typeof speculation !== "object" || speculation === null || Array.isArray(speculation)) {
    throw badArgument(`speculation must be "off", "auto" or an object; got ${JSON.stringify(speculation)}`);
  }
  const { mode, maxDraftTokens: most, sources, ...others } = speculation;
  const [unknown] = Object.keys(others);
  if (unknown !== undefined)
    throw badArgument(`"${unknown}" is no option of speculation; valid are mode, maxDraftTokens, sources`);
  if (mode !== undefined && mode !== "auto" && mode !== "always")
    throw badArgument(`speculation.mode ${JSON.stringify(mode)} is unknown; valid are auto, always`);
  if (most !== undefined && !(Number.isInteger(most) && most >= 1 && most <= maxDraftTokens))
    throw badArgument(`speculation.maxDraftTokens must be an integer from 1 to ${maxDraftTokens}; got ${most}`);
  if (sources === undefined) return;
  if (!Array.isArray(sources) || sources.length === 0) {
    throw badArgument(`speculation.sources must be a list of at least one source; ${validSources(loaded)}`);
  }
  for (const source of sources) checkSource(source, loaded);
  for (const name of ["model", "medusa", "custom"] as const) {
    const num = sources.filter((source) => typeof source !== "string" && nameOf(source) === name).length;
    if (num > 1) throw badArgument(`speculation.sources has ${num} sources of the kind "${name}"; there may be one`);
  }
}

function checkSource(source: AnySource, loaded: LoadedSources | undefined): void {
  if (isCustom(source)) return;
  if (isModel(source) || isMedusa(source)) {
    if (!loaded) return;
    const what = source.kind === "model" ? "a draft model is" : "Medusa heads are";
    throw badArgument(`${what} loaded with the engine, in Engine.load; a decode names the source "${source.kind}"`);
  }
  if (typeof source === "string" && (loaded?.names ?? ownSources).includes(source)) return;
  throw badArgument(`speculation.sources ${JSON.stringify(source)} is unknown; ${validSources(loaded)}`);
}

function validSources(loaded: LoadedSources | undefined): string {
  const custom = "an object with propose()";
  if (loaded) return `this engine has ${loaded.names.join(", ")}, and takes ${custom}`;
  return `valid are ${ownSources.join(", ")}, { kind: "model", model }, { kind: "medusa", heads }, and ${custom}`;
}

function sourcesOf(speculation: Speculation | undefined): readonly AnySource[] {
  return (typeof speculation === "object" && speculation.sources) || [];
}

function isObject(source: AnySource): source is Exclude<AnySource, string> {
  return typeof source === "object" && source !== null;
}

function isModel(source: AnySource): source is DraftModelSource {
  return isObject(source) && "kind" in source && source.kind === "model" && typeof source.model === "string";
}

function isMedusa(source: AnySource): source is MedusaSource {
  return isObject(source) && "kind" in source && source.kind === "medusa" && typeof source.heads === "string";
}

function isCustom(source: AnySource): source is DraftSource {
  return isObject(source) && "propose" in source && typeof source.propose === "function";
}

function nameOf(source: AnySource): DraftSourceName {
  if (typeof source === "string") return source;
  return isCustom(source) ? "custom" : source.kind;
}

function badArgument(message: string): DeftreeError {
  return new DeftreeError("E_BAD_ARGUMENT", message);
}
