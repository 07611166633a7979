"""Logits of a schedule by transformers' LlamaForCausalLM, without a KV cache: each branch's whole path in one forward."""

import pathlib

import torch
from transformers import LlamaForCausalLM


def leaves_of(paths: list[list[int]]) -> list[list[int]]:
    """The paths that are no prefix of another one: the forward passes that give every row."""
    longest_first = sorted({tuple(path) for path in paths}, key=len, reverse=True)
    leaves: list[tuple[int, ...]] = []
    for path in longest_first:
        if not any(leaf[: len(path)] == path for leaf in leaves):
            leaves.append(path)
    return [list(leaf) for leaf in leaves]


class Reference:
    """A checkpoint in bfloat16, or in float32: then float32 throughout, with attention as plain matrix products."""

    def __init__(self, folder: pathlib.Path, device: str, dtype: torch.dtype = torch.bfloat16):
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
        self.device = device
        # Straight to the GPU: that needs the package accelerate.
        placement = {} if device == "cpu" else {"device_map": device}
        self.model = LlamaForCausalLM.from_pretrained(folder, dtype=dtype, **placement).eval()
        if dtype == torch.float32:
            self.to_float32()

    def to_float32(self) -> None:
        """Only for a checkpoint whose weights are bfloat16: other ones have lost digits by now."""
        self.model.float()
        self.model.set_attn_implementation("eager")

    @torch.no_grad()
    def logits(self, paths: list[list[int]]) -> torch.Tensor:
        """float32 [len(paths), vocab_size] on the CPU: row i follows the last token of paths[i]."""
        rows = torch.empty(len(paths), self.model.config.vocab_size)
        wanted = {}
        for row, path in enumerate(paths):
            wanted.setdefault(tuple(path), []).append(row)
        for leaf in leaves_of(paths):
            found = [end for end in range(1, len(leaf) + 1) if tuple(leaf[:end]) in wanted]
            hidden = self.model.model(torch.tensor([leaf], device=self.device), use_cache=False).last_hidden_state[0]
            logits = self.model.lm_head(hidden[[end - 1 for end in found]]).float().cpu()
            for end, values in zip(found, logits, strict=True):
                for row in wanted.pop(tuple(leaf[:end])):
                    rows[row] = values
        return rows
