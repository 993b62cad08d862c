"""Words to text embeddings: labels and their synonyms, prompt templates, and the bank of class embeddings.

The bank is what takes time with many labels, so it does little work twice: prompts are deduplicated, cut after the end
token (a causal tower never sees what follows it), and prefixes that many prompts share go through the tower once.
The result is kept on disk under a hash of the weights, templates and names.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files as package_files
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save
from torch import Tensor

from .errors import LabelError, UnknownNameError
from .files import write_atomically
from .precision import without_autocast
from .text_towers import TextTower

Labels = Sequence[str | Sequence[str]] | Mapping[str, str | Sequence[str]] | str

BACKGROUND = "background"


@cache
def _data_lines(name: str) -> tuple[str, ...]:
    return tuple(package_files("sclip_plugin").joinpath(f"data/{name}").read_text(encoding="utf-8").split("\n")[:-1])


def imagenet_templates() -> tuple[str, ...]:
    """The 80 prompt templates of CLIP's ImageNet evaluation, with ``{}`` for the name."""
    return _data_lines("imagenet_templates.txt")


def background_names() -> tuple[str, ...]:
    """The stuff words that stand for background in SCLIP's VOC vocabulary."""
    return _data_lines("background.txt")


def parse_templates(templates: str | Sequence[str]) -> tuple[str, ...]:
    """``"imagenet"`` (the 80), ``"plain"`` (one), one template of your own, or several; each with one ``{}``.

    Raises:
        UnknownNameError: a template without exactly one ``{}``.

    Example:
        >>> from sclip_plugin.text import parse_templates
        >>> parse_templates("plain"), len(parse_templates("imagenet"))
        (('a photo of a {}.',), 80)
    """
    if templates == "imagenet":
        return imagenet_templates()
    if templates == "plain":
        return ("a photo of a {}.",)
    given = (templates,) if isinstance(templates, str) else tuple(templates)
    for template in given or ("",):
        if not isinstance(template, str) or template.count("{}") != 1:
            raise UnknownNameError(
                f"{template!r} is not a prompt template: expected 'imagenet', 'plain', or texts with one {{}} for the "
                "name, such as 'a photo of a {}.'."
            )
    return tuple(dict.fromkeys(given))


@dataclass(frozen=True)
class Vocabulary:
    """Classes and the names that stand for them.

    Attributes:
        labels: one name a class, for people.
        names: all distinct names, each embedded once.
        class_of_name: (len(names),) class index of each name.
    """

    labels: tuple[str, ...]
    names: tuple[str, ...]
    class_of_name: tuple[int, ...]


def parse_labels(labels: Labels, background: bool = False) -> Vocabulary:
    """Labels as people write them to classes and names.

    Args:
        labels: a list of names, in which a list stands for one class with its synonyms (the first is shown); a dict of
            label to synonyms; or a string with names between commas.
        background: add SCLIP's background vocabulary as one more class, named ``"background"``, at the end.

    Raises:
        LabelError: no labels, an empty or non-text name, or a label given twice.

    Example:
        >>> from sclip_plugin.text import parse_labels
        >>> parse_labels(["cat", ["sofa", "couch"]])
        Vocabulary(labels=('cat', 'sofa'), names=('cat', 'sofa', 'couch'), class_of_name=(0, 1, 1))
    """
    wanted = "expected a list of names such as ['cat', 'dog'], where a list inside names synonyms of one class"
    if isinstance(labels, str):
        labels = [part for part in labels.split(",")]
    if isinstance(labels, Mapping):
        classes = [(label, [names] if isinstance(names, str) else list(names)) for label, names in labels.items()]
    elif isinstance(labels, Sequence):
        groups = [[entry] if isinstance(entry, str) else entry for entry in labels]
        if not all(isinstance(group, Sequence) for group in groups):
            raise LabelError(f"labels holds {next(g for g in groups if not isinstance(g, Sequence))!r}; {wanted}.")
        classes = [(group[0] if group else "", list(group)) for group in groups]
    else:
        raise LabelError(f"labels is a {type(labels).__name__}; {wanted}.")
    if background:
        classes.append((BACKGROUND, list(background_names())))
    if not classes:
        raise LabelError(f"labels is empty; {wanted}.")
    shown: list[str] = []
    names: list[str] = []
    class_of_name: list[int] = []
    for index, (label, synonyms) in enumerate(classes):
        for name in [label, *synonyms]:
            if not isinstance(name, str) or not name.strip():
                raise LabelError(f"label {index} is {name!r}; {wanted}, none of them empty.")
        label = label.strip()
        if label in shown:
            raise LabelError(f"label {label!r} is given twice; name each class once (synonyms go into one list).")
        shown.append(label)
        # Two classes may share a synonym; within a class a name counts once.
        distinct = list(dict.fromkeys(name.strip() for name in synonyms)) or [label]
        names += distinct
        class_of_name += [index] * len(distinct)
    return Vocabulary(tuple(shown), tuple(names), tuple(class_of_name))


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
        prompts = [template.format(name) for name in distinct for template in templates]
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
