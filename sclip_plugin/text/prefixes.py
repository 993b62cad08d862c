"""Prompts as a tree of their prefixes: what several of them share in front stands in it once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

# Sharing that saves fewer tokens than this costs more than it saves: small batches run slowly.
WORTH_SHARING = 16


@dataclass(frozen=True)
class Edge:
    """A run of tokens from the root, or from where prompts part, to where they part again or end.

    Attributes:
        tokens: the run.
        prompts: indices of the prompts that it leads to.
        ends: whether they end with it; then they are all the same.
    """

    tokens: tuple[int, ...]
    prompts: tuple[int, ...]
    ends: bool


def edges_after(prompts: Sequence[Sequence[int]], members: Sequence[int], depth: int) -> Iterator[Edge]:
    """The edges that leave a node of the tree.

    Args:
        prompts: token ids, sorted.
        members: indices, ascending, of the prompts that have the node's ``depth`` tokens in front, and more after them.

    Example:
        >>> from sclip_plugin.text.prefixes import edges_after
        >>> prompts = [[1, 2, 10 + i, 9] for i in range(20)] + [[1, 3, 9]]
        >>> [(edge.tokens, len(edge.prompts)) for edge in edges_after(prompts, range(21), depth=1)]
        [((2,), 20), ((3, 9), 1)]
    """
    for _, group in groupby(members, key=lambda i: prompts[i][depth]):
        rest = list(group)
        while rest:
            first = prompts[rest[0]]
            parts = common_length(first, prompts[rest[-1]])
            if parts < len(first) and (len(rest) - 1) * (parts - depth) >= WORTH_SHARING:
                yield Edge(tuple(first[depth:parts]), tuple(rest), ends=False)
                break
            same = [i for i in rest if prompts[i] == first]
            yield Edge(tuple(first[depth:]), tuple(same), ends=True)
            rest = rest[len(same) :]


def common_length(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two prompts share in front."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
