"""Accuracy of mini on fixed problems, from one pass over each right answer.

A greedy answer is right exactly when the most likely token is the right one at each place of the right answer. And the
probability that a sampled answer is right is the product of the right tokens' probabilities. So one forward pass over
prompt and right answer gives the greedy result and the exact pass rate at any temperature, with no decoding at all.
"""
import torch
import torch.nn.functional as F
from torch import Tensor

from model import Batch, Mini

TEMPERATURES = (0.7, 1.0)
THOUGHT_TOKENS = 17  # about 8 numbers, as sortingProblem's thoughts


@torch.no_grad()
def measure(model: Mini, problem_sets: list[dict], device: str, budget: int = 32768) -> dict:
    """Per problem set: rates over its problems. `search_5` and `best_of_5` are expectations at temperature 1: of the search
    of `search_rate`, and of the best of five whole answers."""
    results = {}
    for problem_set in problem_sets:
        examples = problem_set["examples"]
        rows = {name: [] for name in ("greedy", *(f"pass_t{t}" for t in TEMPERATURES), "search_5", "best_of_5")}
        size = max(1, budget // max(len(e["prompt"]) + len(e["answer"]) for e in examples))
        for begin in range(0, len(examples), size):
            for logits, answer in answer_logits(model, examples[begin : begin + size], device):
                rows["greedy"].append(bool((logits.argmax(-1) == answer).all()))
                for temperature in TEMPERATURES:
                    right = right_logprobs(logits, answer, temperature).sum().exp().item()
                    rows[f"pass_t{temperature}"].append(right)
                logprobs = right_logprobs(logits, answer, temperature=1.0)
                rows["search_5"].append(search_rate(logprobs, 5))
                rows["best_of_5"].append(1 - (1 - logprobs.sum().exp().item()) ** 5)
        results[problem_set["name"]] = {"n": len(examples), **{k: sum(v) / len(v) for k, v in rows.items()}}
    return results


def right_logprobs(logits: Tensor, answer: Tensor, temperature: float) -> Tensor:
    """Log-probabilities [A] of the right answer's tokens."""
    return F.log_softmax(logits.double() / temperature, -1).gather(1, answer[:, None])[:, 0]


def search_rate(token_logprobs: Tensor, samples: int) -> float:
    """Chance that a search finds the right answer which draws `samples` next thoughts and keeps a right one."""
    thoughts = token_logprobs.split(THOUGHT_TOKENS)
    right = torch.stack([thought.sum().exp() for thought in thoughts])
    return (1 - (1 - right) ** samples).prod().item()


def answer_logits(model: Mini, examples: list[dict], device: str):
    """Yields for each example the logits [A, V] that predict its answer's A tokens, and those tokens [A]."""
    documents = [torch.tensor(e["prompt"] + e["answer"]) for e in examples]
    lengths = torch.tensor([len(d) for d in documents])
    bounds = F.pad(lengths.cumsum(0), (1, 0))
    tokens = torch.cat(documents).to(device)
    positions = torch.cat([torch.arange(len(d)) for d in documents]).to(device)
    batch = Batch(tokens, positions, bounds.to(device, torch.int32), int(lengths.max()))
    with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
        logits = model(batch).float()
    for example, begin in zip(examples, bounds.tolist()):
        start = begin + len(example["prompt"])
        stop = start + len(example["answer"])
        yield logits[start - 1 : stop - 1], tokens[start:stop]
