"""The model part: one checkpoint through the engine and through transformers, and the errors of both."""

import json
import pathlib
import shutil
import subprocess
import time

import numpy as np
import torch
from checkpoint import SHAPES, make_checkpoint, nan_token
from reference import Reference
from schedule import make_schedule, rows_of
from transformers.utils import logging

logging.disable_progress_bar()

# A prompt of several prefill chunks (maxStepTokens 256 or 64), its last extend a single token; pages for the private
# copies of flash-decoding.
GPU_SIZES = {"prompt": [300, 211, 1], "maxStepTokens": 256, "kvTokens": 10240}
CPU_SIZES = {"prompt": [150, 41, 1], "maxStepTokens": 64, "kvTokens": 5120}


class Errors:
    """Of logits [rows, vocab_size] against the float32 run: norm over all rows, worst row's norm, largest element."""

    def __init__(self, logits: torch.Tensor, exact: torch.Tensor):
        difference = (logits - exact).double().square_()
        size = exact.double().square_().sum(1)
        self.norm = float((difference.sum() / size.sum()).sqrt())
        self.worst_row = float((difference.sum(1) / size).max().sqrt())
        self.largest = float(difference.max().sqrt())


def run_engine(request: pathlib.Path, folder: pathlib.Path, options, node) -> tuple[dict, torch.Tensor]:
    """What model.ts wrote: result.json, and the logits as [rows, vocab_size]."""
    engine = subprocess.run(node(options, "model", request, folder), text=True, capture_output=True, timeout=400)
    if engine.returncode != 0:
        raise RuntimeError(f"the engine ended with {engine.returncode}:\n{engine.stdout}{engine.stderr}")
    result = json.loads((folder / "result.json").read_text())
    logits = np.fromfile(folder / "logits.bin", np.float32)
    return result, torch.from_numpy(logits.reshape(-1, result["info"]["vocabSize"]))


def compare_model(shape: str, folder: pathlib.Path, options, table, node) -> None:
    """Adds the lines of one shape to the table. The processes take turns on the device: writer, engine, transformers."""
    sizes = CPU_SIZES if shape.startswith("small") else GPU_SIZES
    checkpoint = folder / "checkpoint"
    started = time.monotonic()
    make_checkpoint(shape, checkpoint, options.device)
    if options.device == "cuda":
        torch.cuda.empty_cache()
    made = time.monotonic()

    schedule = make_schedule(SHAPES[shape]["vocab_size"], sizes["prompt"])
    request = folder / "request.json"
    request.write_text(json.dumps(schedule | {
        "model": str(checkpoint), "nanToken": nan_token(shape),
        "options": {"device": options.device, "kvTokens": sizes["kvTokens"], "maxStepTokens": sizes["maxStepTokens"]}}))
    result, ours = run_engine(request, folder, options, node)
    rows, finals = rows_of(schedule)
    ran = time.monotonic()

    greedy = {branch: result["greedy"][branch] for branch in finals}
    greedy_rows = [finals[branch] + greedy[branch]["tokens"][:count]
                   for branch in finals for count in range(len(greedy[branch]["tokens"]))]
    reference = Reference(checkpoint, options.device)
    half = reference.logits(rows)
    reference.to_float32()
    exact = reference.logits(rows + greedy_rows)
    exact, exact_greedy = exact[: len(rows)], exact[len(rows) :]
    del reference
    if options.device == "cuda":
        torch.cuda.empty_cache()
    shutil.rmtree(checkpoint)

    info = result["info"]
    print(f"    {shape}: {len(rows)} rows of {info['vocabSize']} logits, weights {info['weightFormat']}, "
          f"KV {info['kvType']}; checkpoint {made - started:.1f} s, load {result['loadMs'] / 1000:.1f} s, "
          f"engine {result['runMs'] / 1000:.1f} s, transformers {time.monotonic() - ran:.1f} s")
    table.add("model", f"{shape}: pages lost", str(result["pagesLost"]), "0", result["pagesLost"] == 0)
    bound = compare_logits(shape, ours, half, exact, len(schedule["prompt"]), table)
    compare_greedy(shape, greedy, finals, exact_greedy, bound, table)


def compare_logits(shape: str, ours, half, exact, num_prompt_rows: int, table) -> float:
    """@returns the allowed error of an element."""
    columns = ~exact[0].isnan()  # a tied model has the NaN embedding as a row of its lm_head
    ours, half, exact = ours[:, columns], half[:, columns], exact[:, columns]
    bound = 0.0
    for what, rows in (("prefill", slice(0, num_prompt_rows)), ("decode", slice(num_prompt_rows, None))):
        error, allowed = Errors(ours[rows], exact[rows]), Errors(half[rows], exact[rows])
        for name in ("norm", "worst_row", "largest"):
            value, limit = getattr(error, name), 2 * getattr(allowed, name)
            table.add("model", f"{shape}: {what} logits, {name.replace('_', ' ')}", f"{value:.3e}",
                      f"{limit:.3e} ({value / limit * 2:.2f} of bf16's own)", value <= limit)
        bound = max(bound, 2 * allowed.largest)
    agree = int((ours.argmax(1) == exact.argmax(1)).sum())
    half_agree = int((half.argmax(1) == exact.argmax(1)).sum())
    gap = exact.max(1).values - exact.gather(1, ours.argmax(1, keepdim=True))[:, 0]
    table.add("model", f"{shape}: argmax as float32's", f"{agree} of {len(ours)}",
              f"bf16 {half_agree}; gap {float(gap.max()):.2e} <= {2 * bound:.2e}", float(gap.max()) <= 2 * bound)
    return bound


def compare_greedy(shape: str, greedy: dict, finals: dict, exact, bound: float, table) -> None:
    """Sampled tokens and their log-probabilities. Logits wrong by at most `bound` may swap two tokens that are 2 bounds
    apart, and move a log-probability by 2 bounds."""
    exact = exact.double().nan_to_num(nan=-torch.inf)
    tokens = torch.tensor([token for branch in finals for token in greedy[branch]["tokens"]])
    logprobs = torch.tensor([value for branch in finals for value in greedy[branch]["logprobs"]], dtype=torch.float64)
    gap = exact.max(1).values - exact.gather(1, tokens[:, None])[:, 0]
    same = int((gap == 0).sum())
    table.add("model", f"{shape}: greedy tokens, gap to the likeliest", f"{float(gap.max()):.2e}",
              f"{2 * bound:.2e} ({same} of {len(tokens)} the likeliest)", bool((gap <= 2 * bound).all()))
    moved = (exact.log_softmax(1).gather(1, tokens[:, None])[:, 0] - logprobs).abs()
    table.add("model", f"{shape}: their log-probabilities", f"{float(moved.max()):.2e}", f"{2 * bound:.2e}",
              bool((moved <= 2 * bound).all()))
