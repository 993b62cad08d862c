"""The bank of class embeddings: what takes time with many labels, so it does little work twice.

Prompts are deduplicated, cut after the end token (a causal tower never sees what follows it), and prefixes that many
prompts share go through the tower once. The result is kept on disk under a hash of the text tower and of the prompts'
tokens. Beside it lies what the tower answered to a few probes: a bank of a model that answers otherwise is not taken.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load, save
from torch import Tensor

from ..device import without_autocast
from ..errors import LabelError
from ..storage.cache import DiskCache, cache_root
from ..storage.fingerprint import alike
from .base import PROBES, TextTower
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
        self.disk = DiskCache(cache_dir) if cache_dir else None
        self._memory: dict[tuple[str, tuple[str, ...], tuple[str, ...]], Tensor] = {}
        self._each: dict[tuple[str, str, tuple[str, ...]], Tensor] = {}
        self._moment: str | None = None
        self._fingerprint: str | None = None
        self._answers: Tensor | None = None

    def embed(self, names: Sequence[str], templates: Sequence[str]) -> Tensor:
        """Unit embeddings of names, (K, D) float32 on the tower's device.

        Every name goes through every template; each embedding is normalised, they are averaged, and normalised again.
        Names longer than the text tower reads are cut, with a warning that names them; so are names warned of that
        become the same tokens. What was changed since the last call is noticed: weights, adapters, activations, hooks,
        the tokenizer.
        """
        key = (self._now(), tuple(names), tuple(templates))
        if key not in self._memory:
            bank = self._load(names, templates)
            if bank is None:
                bank, quiet = self._compute(names, templates)
                if quiet:  # what was warned of is warned of in the next process too
                    self._save(names, templates, bank)
            if len(self._memory) >= 16:
                self._memory.pop(next(iter(self._memory)))
            self._memory[key] = bank
        self._memory[key] = self._memory[key].to(self.tower.device)  # the model may have been moved
        return self._memory[key]

    def embed_each(self, names: Sequence[str], templates: Sequence[str]) -> Tensor:
        """`embed`, remembered name by name: for questions that share names, though none asks for the same ones."""
        moment, used = self._now(), tuple(templates)
        fresh = [name for name in names if (moment, name, used) not in self._each]
        if len(self._each) + len(fresh) > 4096:
            self._each, fresh = {}, list(names)
        if fresh:
            for name, row in zip(fresh, self._compute(fresh, templates)[0].cpu(), strict=True):
                self._each[moment, name, used] = row
        return torch.stack([self._each[moment, name, used] for name in names]).to(self.tower.device)

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
        bank = self._averaged(read.tokens, unique, prompts, len(templates))
        place = {name: index for index, name in enumerate(distinct)}
        bank = bank[torch.tensor([place[name] for name in names], device=bank.device)]
        return bank.clone(), not cut and not alike

    def rows(self, names: Sequence[str], templates: Sequence[str]) -> Tensor:
        """`embed` of distinct names without a word about those that are cut or alike, and without remembering them."""
        prompts = [template.replace("{}", name) for name in names for template in templates]
        unique = list(dict.fromkeys(prompts))
        return self._averaged(self.tower.read(unique).tokens, unique, prompts, len(templates))

    def _averaged(self, tokens: Sequence[Any], unique: list[str], prompts: list[str], templates: int) -> Tensor:
        """(len(prompts) / templates, D): the mean of each name's prompts, from the tokens of the unique ones."""
        # Without a caller's autocast: what is kept serves callers without one too.
        with torch.inference_mode(), without_autocast(self.tower.device):
            embedded = F.normalize(self.tower.encode(tokens).float(), dim=-1)
            row = {prompt: index for index, prompt in enumerate(unique)}
            rows = torch.tensor([row[prompt] for prompt in prompts], device=embedded.device)
            bank = F.normalize(embedded[rows].view(-1, templates, embedded.shape[1]).mean(dim=1), dim=-1)
        return bank.clone()

    def _now(self) -> str:
        """The moment of the tower, which is made anew when that is another than at the last call."""
        moment = self.tower.moment()
        if moment != self._moment:
            if self._moment is not None and self.tower.anew is not None:
                self.tower = self.tower.anew()
            self._moment, self._fingerprint, self._answers = moment, None, None
        return moment

    def identity(self, names: Sequence[str], templates: Sequence[str]) -> str:
        """A hash of the text tower (`identity_of`) and of the tokens of all prompts."""
        prompts = [template.replace("{}", name) for name in names for template in templates]
        said = ["bank 4", self.of_tower(), len(templates), self.tower.ids(PROBES), self.tower.ids(prompts)]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()

    def of_tower(self) -> str:
        """A hash of the text tower alone."""
        self._now()
        if self._fingerprint is None:
            self._fingerprint = self.tower.fingerprint()
        return self._fingerprint

    def answers(self) -> Tensor:
        """What the text tower says of a few probes now, unit vectors (n, D)."""
        self._now()
        if self._answers is None:
            self._answers = self.tower.answers().cpu()
        return self._answers

    def _load(self, names: Sequence[str], templates: Sequence[str]) -> Tensor | None:
        data = self.disk.get(self.identity(names, templates)) if self.disk else None
        if data is None:
            return None
        kept = load(data)
        return kept["bank"] if alike(self.answers(), kept["answers"], self.tower.dtype_of_weights) else None

    def _save(self, names: Sequence[str], templates: Sequence[str], bank: Tensor) -> None:
        if self.disk:
            kept = {"bank": bank.cpu().contiguous(), "answers": self.answers().contiguous()}
            self.disk.put(self.identity(names, templates), save(kept))


def _alike(tokens: dict[str, tuple[Any, ...]]) -> list[list[str]]:
    """Groups of names that are the same tokens."""
    groups: dict[tuple[Any, ...], list[str]] = {}
    for name, key in tokens.items():
        groups.setdefault(key, []).append(name)
    return [group for group in groups.values() if len(group) > 1]
