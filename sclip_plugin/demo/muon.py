"""Muon (Jordan et al., 2024) in single precision: momentum whose matrices are made orthogonal before they are applied.

torch.optim.Muon does the same in bfloat16, which processors without bfloat16 units compute many times slower.
"""

import torch


def orthogonalize(matrices, iterations=5):
    """Bring the singular values of each (m, n) matrix of a (..., m, n) tensor near 1 by quintic Newton-Schulz steps."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """For weight matrices alone; updates have the root mean square of AdamW's, so that learning rates carry over.

    Args:
        params: matrices.
        lr, weight_decay: as in AdamW.
        momentum: Nesterov momentum.
    """

    def __init__(self, params, lr=1e-3, weight_decay=0.1, momentum=0.95):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            by_shape = {}
            for parameter in group["params"]:
                by_shape.setdefault(tuple(parameter.shape), []).append(parameter)
            for shape, parameters in by_shape.items():
                nesterov = []
                for parameter in parameters:
                    average = self.state[parameter].setdefault("average", torch.zeros_like(parameter))
                    average.lerp_(parameter.grad, 1 - group["momentum"])
                    nesterov.append(parameter.grad.lerp(average, group["momentum"]))
                updates = orthogonalize(torch.stack(nesterov)) * (0.2 * max(shape) ** 0.5)
                for parameter, update in zip(parameters, updates, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update, alpha=group["lr"])
