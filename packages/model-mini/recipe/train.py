"""Trains mini from scratch on the shards of corpus.mjs, and measures it.

    python train.py --corpus DIR --eval eval.json --out DIR --hidden 256 --layers 4 --heads 4 --kv-heads 2 --steps 20000

Writes OUT/model.safetensors (rounded to bfloat16) and OUT/training.json: settings, loss curve, wall time, and the
accuracies of the rounded weights.
"""
import argparse
import json
import math
import pathlib
import time

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from measure import measure
from model import Batch, Mini, ModelConfig
from muon import Muon


class Corpus:
    """All shards on the device: token ids, positions, and which tokens belong to an answer."""

    def __init__(self, folder: pathlib.Path, device: str):
        tokens, positions, answers, lengths = [], [], [], []
        for path in sorted(folder.glob("*.bin")):
            index = np.fromfile(path.with_suffix(".idx"), dtype=np.uint16).reshape(-1, 2).astype(np.int64)
            length, prompt = torch.from_numpy(index.T.copy()).to(device)
            starts = torch.cumsum(length, 0) - length
            position = torch.arange(int(length.sum()), device=device) - torch.repeat_interleave(starts, length)
            tokens.append(torch.from_numpy(np.fromfile(path, dtype=np.int16)).to(device))
            positions.append(position.to(torch.int16))
            answers.append(position >= torch.repeat_interleave(prompt, length))
            lengths.append(index[:, 0])
        self.tokens, self.positions, self.answers = torch.cat(tokens), torch.cat(positions), torch.cat(answers)
        self.starts = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
        self.longest = int(max(length.max() for length in lengths))
        self.document = 0
        self.epochs = 0

    def next_batch(self, size: int, max_documents: int) -> tuple[Batch, Tensor, Tensor]:
        """Whole documents, at most `size` tokens, then padding. Returns batch, targets [T], is_answer [T] of the targets."""
        first = self.document
        last = int(np.searchsorted(self.starts, self.starts[first] + size, side="right")) - 1
        last = min(last, first + max_documents - 1)
        if last >= len(self.starts) - 1:
            self.document, self.epochs = 0, self.epochs + 1
            return self.next_batch(size, max_documents)
        self.document = last

        begin, end = int(self.starts[first]), int(self.starts[last])
        padding = size - (end - begin)
        tokens = F.pad(self.tokens[begin:end].long(), (0, padding))
        positions = F.pad(self.positions[begin:end].long(), (0, padding))
        answers = F.pad(self.answers[begin:end], (0, padding))
        bounds = np.full(max_documents + 1, size, dtype=np.int32)
        bounds[: last - first + 1] = self.starts[first : last + 1] - begin
        bounds = torch.from_numpy(bounds).to(tokens.device, non_blocking=True)
        longest = max(self.longest, 1024)
        return Batch(tokens, positions, bounds, longest), tokens.roll(-1), answers.roll(-1)


def loss_of(logits: Tensor, batch: Batch, targets: Tensor, is_answer: Tensor, prompt_weight: float) -> tuple[Tensor, Tensor]:
    """Mean loss over the answers' tokens, and the same with a little of the prompts' tokens."""
    losses = F.cross_entropy(logits.float(), targets, reduction="none")
    inside = batch.positions.roll(-1) > 0  # the target belongs to the same document
    answer = (inside & is_answer).float()
    prompt = (inside & ~is_answer & (targets > 0)).float()
    answer_loss = (losses * answer).sum() / answer.sum()
    return answer_loss, answer_loss + prompt_weight * (losses * prompt).sum() / prompt.sum().clamp(min=1)


def learning_rate(progress: float, peak: float, warmup: float = 0.02) -> float:
    """Linear warm-up, then a cosine to zero."""
    if progress < warmup:
        return peak * progress / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - warmup) / (1 - warmup))))


def optimizers_of(model: Mini, kind: str, peak: float, decay: float) -> list[torch.optim.Optimizer]:
    """AdamW; or Muon for the matrices of the blocks, with AdamW's step size, and AdamW for the rest."""
    embedding = model.model.embed_tokens.weight
    matrices = [p for p in model.parameters() if p.ndim == 2 and p is not embedding]
    vectors = [p for p in model.parameters() if p.ndim != 2]
    groups = [{"params": [embedding], "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
    if kind == "adamw":
        groups.append({"params": matrices, "weight_decay": decay})
    adamw = torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.95), fused=True)
    if kind == "adamw":
        return [adamw]
    return [adamw, Muon(matrices, lr=peak, weight_decay=decay)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--corpus", type=pathlib.Path, required=True)
    parser.add_argument("--eval", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--kv-heads", type=int, default=2)
    parser.add_argument("--intermediate", type=int, default=768)
    parser.add_argument("--steps", type=int, default=20000)
    parser.add_argument("--batch-tokens", type=int, default=65536)
    parser.add_argument("--optimizer", choices=("adamw", "muon"), default="adamw")
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--prompt-weight", type=float, default=0.02)
    parser.add_argument("--seconds", type=float, default=1e9, help="end the schedule by then, whatever the steps")
    parser.add_argument("--measure-every", type=int, default=2000)
    parser.add_argument("--measure-problems", type=int, default=50, help="of each set, on the way; at the end all")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    torch.set_float32_matmul_precision("high")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = ModelConfig(args.hidden, args.layers, args.heads, args.kv_heads, intermediate_size=args.intermediate)
    model = Mini(config).to(device)
    optimizers = optimizers_of(model, args.optimizer, args.learning_rate, args.weight_decay)
    corpus = Corpus(args.corpus, device)
    problems = json.loads(args.eval.read_text())
    max_documents = args.batch_tokens // 128
    print(f"{model.num_parameters():,} parameters, {len(corpus.tokens):,} tokens, {device}", flush=True)

    def forward_loss(*inputs: Tensor | Batch) -> tuple[Tensor, Tensor]:
        with torch.autocast(device, torch.bfloat16):
            return loss_of(model(inputs[0]), *inputs, args.prompt_weight)

    compiled = torch.compile(forward_loss, dynamic=False) if device == "cuda" else forward_loss
    curve, started, step = [], None, 0
    loss_sum, loss_count = torch.zeros((), device=device), 0
    while True:
        elapsed = 0.0 if started is None else time.perf_counter() - started
        progress = max(step / args.steps, elapsed / args.seconds)
        if progress >= 1:
            break
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = learning_rate(progress, args.learning_rate)
        answer_loss, loss = compiled(*corpus.next_batch(args.batch_tokens, max_documents))
        model.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        step += 1
        loss_sum += answer_loss.detach()
        loss_count += 1
        if started is None:
            answer_loss.item()
            started = time.perf_counter()  # after compilation
        if step % args.measure_every == 0 or step == 50:
            row = {"step": step, "loss": loss_sum.item() / loss_count, "seconds": time.perf_counter() - started}
            loss_sum.zero_()
            loss_count = 0
            row["tokens_per_second"] = (step - 1) * args.batch_tokens / row["seconds"]
            measured = measure(model, problems, device, args.measure_problems)
            row["greedy"] = {k: v["greedy"] for k, v in measured.items()}
            curve.append(row)
            print(json.dumps(row), flush=True)

    args.out.mkdir(parents=True, exist_ok=True)
    rounded = {name: p.to(torch.bfloat16).contiguous() for name, p in model.state_dict().items()}
    save_file(rounded, args.out / "model.safetensors", metadata={"format": "pt"})
    model.load_state_dict(rounded)
    record = {
        "settings": {k: str(v) if isinstance(v, pathlib.Path) else v for k, v in vars(args).items()},
        "config": config.to_hugging_face(),
        "parameters": model.num_parameters(),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "torch": torch.__version__,
        "steps": step,
        "tokens": step * args.batch_tokens,
        "corpus_tokens": len(corpus.tokens),
        "epochs": corpus.epochs + corpus.document / (len(corpus.starts) - 1),
        "seconds": time.perf_counter() - started,
        "final_loss": loss_sum.item() / max(1, loss_count),
        "measured": measure(model, problems, device),
        "curve": curve,
    }
    (args.out / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record["measured"], indent=1), flush=True)


if __name__ == "__main__":
    main()
