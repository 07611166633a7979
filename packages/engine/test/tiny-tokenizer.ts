/** A byte-level tokenizer: three special tokens, the 256 bytes, and a few merges. */

const special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
const merges = ["Ġ t", "h e", "Ġt he", "i n", "e r", "a n", "Ċ Ċ"];

export const tinyVocabSize = special.length + 256 + merges.length + 2; // two rows that no token uses

export const tinyChatTemplate =
  "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}" +
  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/** Characters that stand for the bytes 0..255 in byte-level BPE, in the order of the bytes. */
function byteCharacters(): string[] {
  const isPrintable = (byte: number) => (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad);
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(isPrintable(byte) ? byte : next++));
}

export function tinyTokenizer(): Record<string, unknown> {
  const pieces = [...special, ...byteCharacters(), ...merges.map((merge) => merge.replace(" ", ""))];
  return {
    version: "1.0",
    added_tokens: special.map((content, id) => ({
      id,
      content,
      special: true,
      lstrip: false,
      rstrip: false,
      normalized: false,
      single_word: false,
    })),
    normalizer: null,
    pre_tokenizer: { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true },
    post_processor: null,
    decoder: { type: "ByteLevel" },
    model: { type: "BPE", vocab: Object.fromEntries(pieces.map((piece, id) => [piece, id])), merges },
  };
}

export function tinyTokenizerConfig(): Record<string, unknown> {
  return { eos_token: "<|im_end|>", bos_token: null, chat_template: tinyChatTemplate };
}
