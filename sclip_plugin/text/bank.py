"""The bank of class embeddings: what takes time with many labels, so it does little work twice.

Prompts are deduplicated, cut after the end token (a causal tower never sees what follows it), and prefixes that many
prompts share go through the tower once. The result is kept on disk under a hash of the weights, templates and names.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save
from torch import Tensor

from ..device import without_autocast
from ..files import write_atomically
from .towers import TextTower


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
            import platformdirs

            cache_dir = Path(platformdirs.user_cache_dir("sclip_plugin")) / "text"
        self.cache_dir = Path(cache_dir) if cache_dir else None
        self._memory: dict[str, Tensor] = {}
        self._fingerprint: str | None = None

    def embed(self, names: Sequence[str], templates: Sequence[str]) -> Tensor:
        """Unit embeddings of names, (K, D) float32 on the tower's device.

        Every name goes through every template; each embedding is normalised, they are averaged, and normalised again.
        Names longer than the text tower reads are cut, with a warning that names them.
        """
        key = self._key(names, templates)
        if key not in self._memory:
            bank = self._load(key, len(names))
            if bank is None:
                bank, whole = self._compute(names, templates)
                if whole:  # what was cut is warned of in the next process too
                    self._save(key, bank)
            if len(self._memory) >= 16:
                self._memory.pop(next(iter(self._memory)))
            self._memory[key] = bank
        self._memory[key] = self._memory[key].to(self.tower.device)  # the model may have been moved
        return self._memory[key]

    def _compute(self, names: Sequence[str], templates: Sequence[str]) -> tuple[Tensor, bool]:
        """The bank, and whether every prompt was read whole."""
        distinct = list(dict.fromkeys(names))
        prompts = [template.replace("{}", name) for name in distinct for template in templates]
        unique = list(dict.fromkeys(prompts))
        tokens = self.tower.tokenize(unique)
        limit = self.tower.context_length
        too_long = {prompt for prompt, ids in zip(unique, tokens, strict=True) if len(ids) > limit}
        if too_long:
            cut = [n for i, n in enumerate(distinct) if too_long & set(prompts[i * len(templates) :][: len(templates)])]
            warnings.warn(
                f"the text tower reads {limit} tokens; labels that are longer were cut: {', '.join(map(repr, cut))}",
                stacklevel=2,
            )
            tokens = [ids if len(ids) <= limit else [*ids[: limit - 1], ids[-1]] for ids in tokens]
        # Without a caller's autocast: what is kept serves callers without one too.
        with torch.inference_mode(), without_autocast(self.tower.device):
            embedded = F.normalize(self.tower.encode(tokens).float(), dim=-1)
            row = {prompt: index for index, prompt in enumerate(unique)}
            rows = torch.tensor([row[prompt] for prompt in prompts], device=embedded.device)
            bank = F.normalize(embedded[rows].view(len(distinct), len(templates), -1).mean(dim=1), dim=-1)
            place = {name: index for index, name in enumerate(distinct)}
            bank = bank[torch.tensor([place[name] for name in names], device=bank.device)]
        return bank.clone(), not too_long

    def _key(self, names: Sequence[str], templates: Sequence[str]) -> str:
        if self._fingerprint is None:
            self._fingerprint = self.tower.fingerprint()
        digest = hashlib.sha256(self._fingerprint.encode())
        for part in (*names, "\0", *templates):
            digest.update(part.encode() + b"\0")
        return digest.hexdigest()[:40]

    def _load(self, key: str, count: int) -> Tensor | None:
        if self.cache_dir is None:
            return None
        try:
            bank = load_file(self.cache_dir / f"{key}.safetensors")["bank"]
        except Exception:  # absent, cut short or foreign: whatever is wrong with it, it can be made again
            return None
        return bank if bank.dim() == 2 and len(bank) == count else None

    def _save(self, key: str, bank: Tensor) -> None:
        if self.cache_dir is None:
            return
        try:
            write_atomically(self.cache_dir / f"{key}.safetensors", save({"bank": bank.cpu().contiguous()}))
        except OSError as error:
            warnings.warn(f"the text bank could not be kept in {self.cache_dir}: {error}.", stacklevel=2)
