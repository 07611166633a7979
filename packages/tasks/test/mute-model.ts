/** A model that always says the same, for counting what a method asks. */
import type { DecodedThought, PromptMessage, ThoughtBranch, ThoughtModel } from "@deftree/search";

export class MuteModel implements ThoughtModel {
  readonly name = "mute";
  readonly prompts: string[] = [];
  answers = 0;

  constructor(private readonly says: (prompt: string) => string = () => "nothing") {}

  async open(prompt: readonly PromptMessage[]): Promise<ThoughtBranch> {
    const text = prompt.map(({ content }) => content).join("\n");
    this.prompts.push(text);
    return this.#branch(text);
  }

  usage() {
    return { kvBytesRead: 0, kvBytesUnshared: 0 };
  }

  #branch(prompt: string): ThoughtBranch {
    const usage = { generatedTokens: 0, promptTokens: 0, prefilledTokens: 0 };
    return {
      usage,
      fork: (n) => Array.from({ length: n }, () => this.#branch(prompt)),
      extend: async () => {},
      decode: async (): Promise<DecodedThought> => {
        this.answers++;
        usage.generatedTokens++;
        return { text: this.says(prompt), tokens: 1, finishReason: "stop", ended: true };
      },
      release: () => {},
    };
  }
}
