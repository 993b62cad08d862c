"""The blocks that a method uses on towers of another depth than the 12 blocks of its paper."""

from __future__ import annotations

from collections.abc import Iterable

PUBLISHED_DEPTH = 12


def at_depth(numbers: Iterable[int], depth: int) -> tuple[int, ...]:
    """Block numbers, counted from 1 of 12, at the same fractions of another depth: b becomes b · depth / 12.

    Halves are rounded up and duplicates removed. The last block, which the methods replace, is excluded: numbers are at
    least 1 and at most depth - 1.

    Example:
        >>> from sclip_plugin.methods.depth import at_depth
        >>> at_depth((6, 7, 8, 9), 24), at_depth((6, 7, 8, 9), 32)
        ((12, 14, 16, 18), (16, 19, 21, 24))
    """
    scaled = ((2 * number * depth + PUBLISHED_DEPTH) // (2 * PUBLISHED_DEPTH) for number in numbers)
    return tuple(dict.fromkeys(max(1, min(number, depth - 1)) for number in scaled))
