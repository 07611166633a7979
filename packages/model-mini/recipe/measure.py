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
def measure(model: Mini, problem_sets: list[dict], device: str, limit: int | None = None) -> dict:
    """Rates over the first `limit` problems of each set. `greedy`: right answers; `greedy_tokens`: right tokens after a right
    beginning; `pass_tT`: a sample at temperature T is right. `best_of_5` and `search_5` are expectations at temperature 1:
    of the best of five whole answers, and of the search of `search_rate`."""
    budget = 32768 if device == "cuda" else 4096  # tokens at once; on a CPU the mask is dense
    results = {}
    for problem_set in problem_sets:
        examples = problem_set["examples"][:limit]
        size = max(1, budget // max(len(e["prompt"]) + len(e["answer"]) for e in examples))
        rows = [
            rates(logits, answer)
            for begin in range(0, len(examples), size)
            for logits, answer in answer_logits(model, examples[begin : begin + size], device)
        ]
        means = {name: torch.stack([row[name] for row in rows]).mean().item() for name in rows[0]}
        results[problem_set["name"]] = {"n": len(examples), **means}
    return results


def rates(logits: Tensor, answer: Tensor) -> dict[str, Tensor]:
    """Of one answer: logits [A, V] that predict its tokens [A]."""
    hits = logits.argmax(-1) == answer
    passes = {f"pass_t{t}": right_logprobs(logits, answer, t).sum().exp() for t in TEMPERATURES}
    logprobs = right_logprobs(logits, answer, temperature=1.0)
    return {
        "greedy": hits.all().double(),
        "greedy_tokens": hits.double().mean(),
        **passes,
        "best_of_5": 1 - (1 - logprobs.sum().exp()) ** 5,
        "search_5": search_rate(logprobs, 5),
    }


def right_logprobs(logits: Tensor, answer: Tensor, temperature: float) -> Tensor:
    """Log-probabilities [A] of the right answer's tokens."""
    return F.log_softmax(logits.double() / temperature, -1).gather(1, answer[:, None])[:, 0]


def search_rate(token_logprobs: Tensor, samples: int) -> Tensor:
    """Chance that a search finds the right answer which draws `samples` next thoughts and keeps a right one."""
    padding = -len(token_logprobs) % THOUGHT_TOKENS
    thoughts = F.pad(token_logprobs, (0, padding)).view(-1, THOUGHT_TOKENS)
    return (1 - (1 - thoughts.sum(1).exp()) ** samples).prod()


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
