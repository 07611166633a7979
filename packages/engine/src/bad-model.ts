import { DeftreeError } from "./errors.js";

/** E_BAD_MODEL whose message starts with the file: `badModel("a/config.json", "has no num_hidden_layers")`. */
export function badModel(
  file: string,
  problem: string,
  options: { cause?: unknown; figures?: Record<string, number> } = {},
): DeftreeError {
  return new DeftreeError("E_BAD_MODEL", `${file} ${problem}`, options);
}
