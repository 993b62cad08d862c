"""Names in messages and tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path


def unique_names(names: Iterable[str]) -> list[str]:
    """Names with a number added where one occurs twice, so that they can be keys."""
    seen: Counter[str] = Counter()
    unique = []
    for name in names:
        seen[name] += 1
        unique.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return unique


def listing(folder: Path) -> str:
    """What a folder holds, for a message."""
    entries = sorted(folder.iterdir())
    if not entries:
        return "nothing"
    return some(f"{entry.name}/" if entry.is_dir() else entry.name for entry in entries)


def some(names: Iterable[str], most: int = 8) -> str:
    """The first names of many, for a message."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
