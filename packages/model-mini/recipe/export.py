"""Writes trained weights as a Hugging Face folder and checks it against transformers.

    python export.py --run DIR --out ../model --eval eval.json

DIR is train.py's output. --out already holds the tokenizer. transformers' LlamaForCausalLM must give the logits of our
own network, both in float32, and decode greedily as many right answers as measure.py says.
"""
import argparse
import json
import pathlib
import shutil

import torch
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from measure import answer_logits, rates
from model import Mini, ModelConfig


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--eval", type=pathlib.Path, required=True)
    parser.add_argument("--decode", type=int, default=20, help="problems per length to decode with transformers")
    args = parser.parse_args()

    record = json.loads((args.run / "training.json").read_text())
    weights = load_file(args.run / "model.safetensors")
    args.out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(args.run / "model.safetensors", args.out / "model.safetensors")
    write_json(args.out / "config.json", record["config"])
    write_json(args.out / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0})

    known = ModelConfig.__dataclass_fields__
    ours = Mini(ModelConfig(**{k: v for k, v in record["config"].items() if k in known}))
    ours.load_state_dict({name: value.float() for name, value in weights.items()})
    theirs = LlamaForCausalLM.from_pretrained(args.out, dtype=torch.float32)
    problem_sets = json.loads(args.eval.read_text())
    for problem_set in problem_sets:
        compare(ours, theirs, problem_set, args.decode)


@torch.no_grad()
def compare(ours: Mini, theirs: LlamaForCausalLM, problem_set: dict, count: int) -> None:
    examples = problem_set["examples"][:count]
    right = expected = 0
    for example in examples:
        logits, answer = next(answer_logits(ours, [example], "cpu"))
        ids = torch.tensor([example["prompt"] + example["answer"]])
        reference = theirs(ids).logits[0, len(example["prompt"]) - 1 : -1]
        error = ((logits - reference).norm() / reference.norm()).item()
        if not error < 1e-4:
            raise SystemExit(f"{problem_set['name']}: logits differ from transformers' by {error:.2e}")
        expected += int(rates(logits, answer)["greedy"])
        prompt = torch.tensor([example["prompt"]])
        output = theirs.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=len(answer))
        right += output[0, prompt.shape[1] :].tolist() == answer.tolist()
    print(f"{problem_set['name']}: logits equal; {right} of {len(examples)} decoded greedily are right", flush=True)
    if right != expected:
        raise SystemExit(f"measure.py expects {expected}")


def write_json(path: pathlib.Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


if __name__ == "__main__":
    main()
