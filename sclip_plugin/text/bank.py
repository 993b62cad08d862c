"""The bank of class embeddings: what takes time with many labels, so it does little work twice.

Prompts are deduplicated, cut after the end token (a causal tower never sees what follows it), and prefixes that many
prompts share go through the tower once. The result is kept on disk under a hash of the weights, templates and names.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load, save
from torch import Tensor

from ..cache import DiskCache, cache_root
from ..device import without_autocast
from ..errors import LabelError
from .base import TextTower
from .labels import Vocabulary


class TextBank:
    """Embeds names through templates, and remembers: in memory, and on disk for the next process.

    Args:
        tower: of `find_text_tower`.
        cache_dir: folder of the disk cache; None for the user's cache folder, False for no disk cache.

    Example:
        >>> import sclip_plugin as sp
        >>> seg = sp.Segmenter.from_pretrained("demo")
        >>> seg.text_bank.embed(("cat", "dog"), ("a photo of a {}.",)).shape[0]
        2
    """

    def __init__(self, tower: TextTower, cache_dir: str | Path | None | bool = None) -> None:
        self.tower = tower
        if cache_dir is None or cache_dir is True:
            cache_dir = cache_root() / "text"
        self._disk = DiskCache(cache_dir) if cache_dir else None
        self._memory: dict[str, Tensor] = {}
        self._fingerprint: str | None = None
        self._versions: tuple[tuple[int, int], ...] = ()

    def embed(self, names: Sequence[str], templates: Sequence[str]) -> Tensor:
        """Unit embeddings of names, (K, D) float32 on the tower's device.

        Every name goes through every template; each embedding is normalised, they are averaged, and normalised again.
        Names longer than the text tower reads are cut, with a warning that names them; so are names warned of that
        become the same tokens. Weights that were changed since the last call are noticed.
        """
        key = self._key(names, templates)
        if key not in self._memory:
            bank = self._load(key)
            if bank is None:
                bank, quiet = self._compute(names, templates)
                if quiet:  # what was warned of is warned of in the next process too
                    self._save(key, bank)
            if len(self._memory) >= 16:
                self._memory.pop(next(iter(self._memory)))
            self._memory[key] = bank
        self._memory[key] = self._memory[key].to(self.tower.device)  # the model may have been moved
        return self._memory[key]

    def embed_vocabulary(self, vocabulary: Vocabulary, templates: Sequence[str]) -> Tensor:
        """`embed` of a vocabulary's names, with the vectors of those that are given as vectors, (K, D).

        Raises:
            LabelError: a vector has another width than the words' embeddings.
        """
        if not vocabulary.vectors:
            return self.embed(vocabulary.names, templates)
        given = {i: torch.from_numpy(vector).to(self.tower.device) for i, vector in vocabulary.vectors}
        words = [i for i in range(len(vocabulary.names)) if i not in given]
        bank = self.embed([vocabulary.names[i] for i in words], templates) if words else None
        width = len(next(iter(given.values()))) if bank is None else bank.shape[1]
        for i, vector in given.items():
            if len(vector) != width:
                raise LabelError(
                    f"the vector of label {vocabulary.labels[vocabulary.class_of_name[i]]!r} has {len(vector)} values; "
                    f"expected {width}, the width of the space that this model shares with text."
                )
        rows = [given[i] if i in given else bank[words.index(i)] for i in range(len(vocabulary.names))]  # type: ignore[index]
        return torch.stack(rows)

    def _compute(self, names: Sequence[str], templates: Sequence[str]) -> tuple[Tensor, bool]:
        """The bank, and whether there was nothing to warn of."""
        distinct = list(dict.fromkeys(names))
        prompts = [template.replace("{}", name) for name in distinct for template in templates]
        unique = list(dict.fromkeys(prompts))
        read = self.tower.read(unique)
        tokens = dict(zip(unique, read.tokens, strict=True))
        too_long = {prompt for prompt, cut in zip(unique, read.cut, strict=True) if cut}
        of_name = {name: prompts[i * len(templates) :][: len(templates)] for i, name in enumerate(distinct)}
        cut = [name for name in distinct if too_long & set(of_name[name])]
        if cut:
            limit = self.tower.context_length
            warnings.warn(
                f"the text tower reads {limit} tokens; labels that are longer were cut: {', '.join(map(repr, cut))}",
                stacklevel=2,
            )
        alike = _alike({name: tuple(tokens[prompt] for prompt in of_name[name]) for name in distinct})
        if alike:
            groups = "; ".join(" and ".join(map(repr, group)) for group in alike)
            warnings.warn(f"labels that the tokenizer cannot tell apart have one embedding: {groups}", stacklevel=2)
        # Without a caller's autocast: what is kept serves callers without one too.
        with torch.inference_mode(), without_autocast(self.tower.device):
            embedded = F.normalize(self.tower.encode(read.tokens).float(), dim=-1)
            row = {prompt: index for index, prompt in enumerate(unique)}
            rows = torch.tensor([row[prompt] for prompt in prompts], device=embedded.device)
            bank = F.normalize(embedded[rows].view(len(distinct), len(templates), -1).mean(dim=1), dim=-1)
            place = {name: index for index, name in enumerate(distinct)}
            bank = bank[torch.tensor([place[name] for name in names], device=bank.device)]
        return bank.clone(), not cut and not alike

    def _key(self, names: Sequence[str], templates: Sequence[str]) -> str:
        versions = self.tower.versions()
        if self._fingerprint is None or versions != self._versions:
            self._fingerprint, self._versions = self.tower.fingerprint(), versions
        return json.dumps(["bank 3", self._fingerprint, list(names), list(templates)])

    def _load(self, key: str) -> Tensor | None:
        data = self._disk.get(key) if self._disk else None
        return None if data is None else load(data)["bank"]

    def _save(self, key: str, bank: Tensor) -> None:
        if self._disk:
            self._disk.put(key, save({"bank": bank.cpu().contiguous()}))


def _alike(tokens: dict[str, tuple[Any, ...]]) -> list[list[str]]:
    """Groups of names that are the same tokens."""
    groups: dict[tuple[Any, ...], list[str]] = {}
    for name, key in tokens.items():
        groups.setdefault(key, []).append(name)
    return [group for group in groups.values() if len(group) > 1]
