"""Trains mini's tokenizer: a small byte-level BPE; a number and ", " are one token each.

    python tokenizer.py --prompts prompts.txt --out ../model

Its text is the prompts of the project's own tasks (from `corpus.mjs text`) and plain technical English: the help pages
that come with Python (pydoc_data.topics), so that prose of later tasks costs few tokens. The committed tokenizer.json
is what counts; another Python version gives slightly other merges.
"""
import argparse
import json
import pathlib
import pydoc_data.topics

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

# A separator, a word, up to three digits or one sign, each with its space, white space. Merges stay inside of these.
PIECES = r", | ?\p{L}+| ?\p{N}{1,3}| ?[^\s\p{L}\p{N}]|\s+"

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--prompts", type=pathlib.Path, required=True, help="one JSON string a line")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--vocab", type=int, default=1536)
    args = parser.parse_args()

    prompts = [json.loads(line) for line in args.prompts.read_text().splitlines()]
    english = list(pydoc_data.topics.topics.values())

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=args.vocab,
        special_tokens=[END_OF_TEXT, TURN_START, TURN_END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(prompts + english, trainer)
    check(tokenizer, prompts)

    args.out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(args.out / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": False,
        "add_prefix_space": False,
        "bos_token": TURN_START,
        "eos_token": TURN_END,
        "pad_token": END_OF_TEXT,
        "unk_token": None,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 4096,
        "chat_template": CHAT_TEMPLATE,
    }
    (args.out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def check(tokenizer: Tokenizer, prompts: list[str]) -> None:
    for text in [*prompts[:50], "".join(chr(i) for i in range(1, 0x300)), "naïve – 数字 🙂\r\n\t x"]:
        assert tokenizer.decode(tokenizer.encode(text).ids) == text, text
    assert all(len(tokenizer.encode(str(n)).ids) == 1 for n in range(256)), "a number of a set is one token"
    assert len(tokenizer.encode("[1, 2, 34]").ids) == 7, "and so is a separator"


if __name__ == "__main__":
    main()
