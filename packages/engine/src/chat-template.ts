/** Conversation -> segments of a prompt, by the model's chat template. */
import { knownChatFormat } from "./chat-families.js";
import type { ChatTurn } from "./engine-types.js";
import { DeftreeError } from "./errors.js";
import { JinjaSandbox } from "./jinja-sandbox.js";
import type { ModelTokenizer, TextSegment } from "./tokenizer.js";

const roles: readonly string[] = ["system", "user", "assistant", "tool"];

/** Characters a template may write around the contents of a conversation. */
const maxOwnText = 256 << 10;

export class ChatTemplate {
  readonly #tokenizer: ModelTokenizer;
  readonly #format: (turns: readonly ChatTurn[], addGenerationPrompt: boolean) => TextSegment[];
  readonly #sandbox: JinjaSandbox | undefined;

  /** @param source Jinja text. @throws E_BAD_MODEL when it is too long. */
  constructor(source: string, tokenizer: ModelTokenizer) {
    this.#tokenizer = tokenizer;
    const special = {
      bosText: tokenizer.specialTokenText(tokenizer.bosToken),
      eosText: tokenizer.specialTokenText(tokenizer.eosTokens[0]),
    };
    const known = knownChatFormat(source);
    if (known) {
      this.#format = (turns, addGenerationPrompt) => known({ turns, addGenerationPrompt, ...special });
    } else {
      const sandbox = new JinjaSandbox(source);
      this.#sandbox = sandbox;
      this.#format = (turns, addGenerationPrompt) =>
        this.#formatByJinja(sandbox, turns, {
          add_generation_prompt: addGenerationPrompt,
          bos_token: special.bosText,
          eos_token: special.eosText,
        });
    }
  }

  /** Whether the format is a known one, written without Jinja. */
  get isKnownFormat(): boolean {
    return this.#sandbox === undefined;
  }

  /** @throws E_BAD_ARGUMENT for a conversation the template refuses. */
  segments(turns: readonly ChatTurn[], addGenerationPrompt: boolean): TextSegment[] {
    for (const { role, content } of turns) {
      if (!roles.includes(role) || typeof content !== "string") {
        throw new DeftreeError(
          "E_BAD_ARGUMENT",
          `A turn has a role of ${roles.join(", ")} and a string as content; got ${JSON.stringify(role)}`,
        );
      }
    }
    return this.#format(turns, addGenerationPrompt);
  }

  /** Token ids, with the beginning-of-text token where the model wants one and the template does not write it. */
  encode(turns: readonly ChatTurn[], addGenerationPrompt: boolean): number[] {
    const tokens = this.#tokenizer.encodeSegments(this.segments(turns, addGenerationPrompt));
    const { bosToken, addBosToken } = this.#tokenizer;
    if (addBosToken && bosToken !== undefined && tokens[0] !== bosToken) tokens.unshift(bosToken);
    return tokens;
  }

  close(): void {
    this.#sandbox?.close();
  }

  /**
   * Jinja gives one string. To know which parts are the template's own, it renders a second time with a placeholder for
   * each content, and the contents (as they are, or trimmed, as templates do) are put into the places. If that does not
   * give the first string, the template does more to the contents; then the string is taken whole, and refused when it
   * holds other special tokens than the template's own.
   */
  #formatByJinja(sandbox: JinjaSandbox, turns: readonly ChatTurn[], settings: Record<string, unknown>): TextSegment[] {
    const maxLength = maxOwnText + 4 * turns.reduce((sum, turn) => sum + turn.content.length, 0);
    const whole = sandbox.render({ ...settings, messages: turns }, maxLength);
    const mark = unusedMark(turns);
    const places = turns.map((_, index) => `${mark}${index}${mark}`);
    const withPlaces = sandbox.render(
      { ...settings, messages: turns.map((turn, index) => ({ ...turn, content: places[index]! })) },
      maxLength,
    );
    const pieces = withPlaces.split(new RegExp(`${mark}(\\d+)${mark}`));
    for (const transform of [(text: string) => text, (text: string) => text.trim()]) {
      const segments = pieces.map(
        (piece, index): TextSegment =>
          index % 2 === 0
            ? { text: piece, trusted: true }
            : { text: transform(turns[Number(piece)]!.content), trusted: false },
      );
      if (segments.map(({ text }) => text).join("") === whole) return segments;
    }
    if (
      this.#tokenizer.countAddedTokens(whole) !==
      this.#tokenizer.countAddedTokens(pieces.filter((_, index) => index % 2 === 0).join(""))
    ) {
      throw new DeftreeError(
        "E_BAD_ARGUMENT",
        "A message spells a special token, and this model's chat template changes messages in a way that hides which part is whose. " +
          "Remove the special token from the message.",
      );
    }
    return [{ text: whole, trusted: true }];
  }
}

/** Letters that occur in no turn, plain enough for any template to pass them through. */
function unusedMark(turns: readonly ChatTurn[]): string {
  for (let length = 8; ; length++) {
    const mark = `q${"x".repeat(length)}q`;
    if (!turns.some(({ content }) => content.includes(mark))) return mark;
  }
}
