"""The Muon optimiser (Jordan et al. 2024) for matrices, all of one shape in one go.

The update is the momentum made orthogonal by five Newton-Schulz iterations, scaled so that its entries are as large as
AdamW's (Liu et al. 2025, "Muon is Scalable for LLM Training", section 2.2): learning rate and weight decay are AdamW's.
"""
from collections import defaultdict

import torch
from torch import Tensor

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.Optimizer):
    def __init__(self, matrices: list[Tensor], lr: float, weight_decay: float, momentum: float = 0.95):
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            by_shape = defaultdict(list)
            for matrix in group["params"]:
                by_shape[matrix.shape].append(matrix)
            for matrices in by_shape.values():
                self._step(matrices, group)

    def _step(self, matrices: list[Tensor], group: dict) -> None:
        gradients = torch.stack([matrix.grad for matrix in matrices])  # [n, rows, columns]
        state = self.state[matrices[0]]
        momentum = state.setdefault("momentum", torch.zeros_like(gradients))
        momentum.lerp_(gradients, 1 - group["momentum"])
        updates = orthogonal(gradients.lerp(momentum, group["momentum"]))
        scale = 0.2 * max(gradients.shape[1:]) ** 0.5
        torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(matrices, list(updates.to(matrices[0].dtype)), alpha=-group["lr"] * scale)


def orthogonal(updates: Tensor) -> Tensor:
    """The nearest matrices with orthogonal rows or columns, roughly: singular values between 0.7 and 1.2. [n, r, c], bfloat16."""
    a, b, c = NEWTON_SCHULZ
    is_tall = updates.shape[1] > updates.shape[2]
    x = (updates.mT if is_tall else updates).bfloat16()
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if is_tall else x
