"""How far a result may be from a reference: as far as rounding moves it, and no number read off one machine's run.

A sum in single precision is the exact sum of terms that are each a few units in the last place (ulp) off; which way
depends on the processor and its libraries. So where a result is not within the bar of its reference, all weights and
inputs that it is computed from are moved by `ULPS` units at random, several times: the reference may be as far away as
that moves the result. Where the result jumps (a comparison with a threshold), the jump is what moves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

BAR = 1e-5  # of the reference's largest magnitude: the agreement that golden/README.md asks for
ULPS = 16  # sums of 64 to 1024 terms; the error of such a sum grows with the square root of their number
RUNS = 4
UNSEEN = 1e-4  # share of values that may take a jump which no run took, as of pixels with another label


def assert_same(
    ours: Tensor,
    expected: Tensor,
    again: Callable[[], Tensor] | None = None,
    moved: Iterable[nn.Module | Tensor] = (),
    bar: float = BAR,
) -> None:
    """The result is its reference, up to the bar, or up to what rounding does to it.

    Args:
        ours: the result.
        expected: the reference, of the same shape.
        again: computes the result anew; None where nothing but the bar is allowed.
        moved: models and tensors that ``again`` reads; they are moved in place, and put back.
        bar: share of the reference's largest magnitude that is always allowed.
    """
    assert ours.shape == expected.shape, (ours.shape, expected.shape)
    scale = expected.abs().max()
    difference, allowed, unseen = (ours - expected).abs() / scale, torch.tensor(bar), 0.0
    if again is not None and (difference > bar).any():
        movement = movement_of(again, ours, list(moved)) / scale
        jumps = movement > 4 * movement.median()
        # A value next to a jump may take it whole, and half of the runs take it: so many values have not shown theirs.
        allowed = bar + 2 * torch.where(jumps, movement.max(), movement)
        unseen = jumps.sum().item() / 2**RUNS + UNSEEN * len(jumps.flatten())
    outside = difference > allowed
    assert outside.sum() <= unseen and difference.max() <= allowed.max(), (
        f"{outside.sum()} of {outside.numel()} values are up to {difference[outside].max():.1e} of the largest "
        f"magnitude from the reference, more than rounding moves them (at most {allowed.max():.1e} is allowed)"
    )


def movement_of(again: Callable[[], Tensor], ours: Tensor, moved: list[nn.Module | Tensor]) -> Tensor:
    """For each value the largest difference that moving weights and inputs by `ULPS` units made to it."""
    largest = torch.zeros_like(ours)
    for seed in range(RUNS):
        with nudged(moved, seed):
            largest = torch.maximum(largest, (again() - ours).abs())
    return largest


@contextmanager
def nudged(moved: list[nn.Module | Tensor], seed: int) -> Iterator[None]:
    """Every value of them up to `ULPS` units larger or smaller, at random; as they were afterwards, to the bit."""
    generator = torch.Generator().manual_seed(seed)
    tensors = [t for m in moved for t in ([m] if isinstance(m, Tensor) else m.state_dict().values())]
    tensors = [t.data for t in tensors if t.is_floating_point()]
    before = [t.clone() for t in tensors]
    try:
        for t in tensors:
            t.mul_(1 + ULPS * torch.finfo(t.dtype).eps * (2 * torch.rand(t.shape, generator=generator) - 1).to(t.dtype))
        yield
    finally:
        for t, old in zip(tensors, before, strict=True):
            t.copy_(old)
