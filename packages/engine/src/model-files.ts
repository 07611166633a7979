/** What every model format is turned into before the engine sees it. */
import type { NativeLlamaConfig, NativeTensor } from "./native-addon.js";
import type { JsonObject } from "./strict-json.js";

export interface ModelFiles {
  /** The folder or file that was read. */
  path: string;
  /** For people: the folder's or file's name, or `org/name`. */
  name: string;
  config: NativeLlamaConfig;
  files: string[];
  tensors: NativeTensor[];
  /** Instead of files and tensors: weights made from this seed. */
  randomSeed?: number;
  /** Absent for random models: token ids go in and out. */
  tokenizer: TokenizerSource | undefined;
  /** Jinja source of the chat template; absent for base models. */
  chatTemplate: string | undefined;
}

/** Hugging Face's tokenizer.json (from the folder, or built from GGUF metadata) and the tokens with a role. */
export interface TokenizerSource {
  /** The file it came from, for error messages. */
  file: string;
  tokenizerJson: JsonObject;
  eosTokens: number[];
  bosToken: number | undefined;
  /** Whether a prompt starts with `bosToken` where the chat template does not write it. */
  addBosToken: boolean;
}
