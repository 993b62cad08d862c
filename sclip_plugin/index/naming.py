"""Names without a vocabulary in a collection: `sclip_plugin.segment.naming`, with the index's regions and its null."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from ..errors import SettingError
from ..segment.segmenter import Segmenter
from ..steps.presence import FEWEST, Presence
from ..text.wordbank import Report
from ..text.wordlist import Auto
from .presence import HIGHER
from .searching import Searcher


def names_in(
    searcher: Searcher, segmenter: Segmenter, auto: Auto, null: Presence | None, report: Report | None = None
) -> dict[str, list[str]]:
    """See `Index.names`."""
    if null is None:
        raise SettingError(
            f"the index has {len(searcher.rows)} pictures; expected {FEWEST} or more to learn from what its words' "
            "cosines are. 'sclip names' names single pictures."
        )
    null = dataclasses.replace(null, threshold=null.threshold + HIGHER)
    shares: dict[str, list[tuple[float, str]]] = {}
    for row in searcher.rows.tolist():
        vectors = torch.from_numpy(searcher.vectors(row))
        counts = np.bincount(searcher.store.map(row).ravel(), minlength=len(vectors))[: len(vectors)]
        share = torch.from_numpy(counts / counts.sum()).float()
        names = segmenter.named(vectors, vectors, share, auto, segmenter.settings, null, report)
        low, high = np.searchsorted(searcher.content, [row, row + 1])
        for name in names:
            shares.setdefault(name.word, []).extend((name.share, path) for path in searcher.paths[low:high])
    ordered = sorted(shares.items(), key=lambda entry: (-len(entry[1]), entry[0]))
    return {word: [path for _, path in sorted(found, key=lambda each: (-each[0], each[1]))] for word, found in ordered}
