"""The embeddings of a long list of words: computed once, kept on disk under the model's identity, mapped into memory.

`TextBank.embed` hashes the tokens of all prompts, which would take longer than to name a picture. Here the key is the
list, the templates and the text tower with what it makes of a few probes.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..storage.fingerprint import alike
from .bank import TextBank
from .base import PROBES
from .wordlist import WordList

TEMPLATES = ("a photo of a {}.",)
"""Of naming: one. Seven find the same names in the demo's scenes, and take twenty times as long (docs/naming.md)."""
AT_ONCE = 512

Report = Callable[[int, int, float], None]
"""Is told of words done, words in all, and seconds left."""


class WordBank:
    """The embeddings of the lists that a model has named with.

    Args:
        text_bank: the model's; its disk cache is used.
    """

    def __init__(self, text_bank: TextBank) -> None:
        self.text_bank = text_bank
        self._kept: dict[str, Tensor] = {}

    def of(self, words: WordList, report: Report | None = None) -> Tensor:
        """Unit embeddings of all words, (K, D) float32 on the CPU, memory-mapped where a cache folder is.

        Args:
            report: called while they are computed, after each 512 words; a stored bank calls it never.
        """
        key = self._key(words)
        if key not in self._kept:
            bank = self._load(key, words)
            if bank is None:
                bank = self._compute(words, report)
                disk = self.text_bank.disk
                if disk:
                    disk.put_plain(key, save({"bank": bank, "answers": self.text_bank.answers().contiguous()}))
            while len(self._kept) >= 4:
                self._kept.pop(next(iter(self._kept)))
            self._kept[key] = bank
        return self._kept[key]

    def _key(self, words: WordList) -> str:
        tower = self.text_bank.of_tower()
        probes = self.text_bank.tower.ids([*PROBES, *words.words[:64]])
        said = ["words 1", tower, TEMPLATES, probes, words.identity()]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()

    def _compute(self, words: WordList, report: Report | None) -> Tensor:
        parts, started = [], time.monotonic()
        for start in range(0, len(words.words), AT_ONCE):
            parts.append(self.text_bank.rows(words.words[start : start + AT_ONCE], TEMPLATES).cpu())
            done = min(start + AT_ONCE, len(words.words))
            if report is not None:
                report(done, len(words.words), (time.monotonic() - started) / done * (len(words.words) - done))
        return torch.cat(parts).contiguous()

    def _load(self, key: str, words: WordList) -> Tensor | None:
        """A stored bank; None where there is none, or the model answers otherwise than it did."""
        disk = self.text_bank.disk
        if disk is None or not disk.path(key).is_file():
            return None
        try:
            with safe_open(disk.path(key), framework="pt") as file:
                bank, answers = file.get_tensor("bank"), file.get_tensor("answers")
            disk.path(key).touch()
        except (OSError, SafetensorError):
            return None
        exact = self.text_bank.tower.dtype_of_weights
        whole = bank.ndim == 2 and len(bank) == len(words.words)
        return bank if whole and alike(self.text_bank.answers(), answers, exact) else None
