import type { DecodedThought, ThoughtBranch } from "./thought-model.js";

type OnPiece = (text: string, tokens: number) => void;

/** A thought that decodes. It may begin ahead of its turn: what it says is kept until somebody listens. */
export class Growth {
  /** A rejection is no unhandled one: a thought that nobody wants may fail. */
  readonly decoded: Promise<DecodedThought>;
  readonly #pieces: [text: string, tokens: number][] = [];
  #onPiece: OnPiece | undefined;

  /** @param decode starts decoding on `branch` and tells each piece of text as it becomes final. */
  constructor(
    readonly branch: ThoughtBranch,
    decode: (onPiece: OnPiece) => Promise<DecodedThought>,
  ) {
    this.decoded = decode((text, tokens) => {
      if (this.#onPiece) this.#onPiece(text, tokens);
      else this.#pieces.push([text, tokens]);
    });
    this.decoded.catch(() => {});
  }

  /** Tells what was said so far at once, and from now on each piece as it comes. */
  listen(onPiece: OnPiece): void {
    for (const piece of this.#pieces.splice(0)) onPiece(...piece);
    this.#onPiece = onPiece;
  }
}
