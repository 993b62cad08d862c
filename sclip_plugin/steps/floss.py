"""FLOSS (arXiv 2504.10487): which templates suit a class, learnt from unlabelled pictures; and their fusion.

For each class the templates under which its pixels are surest, by mean entropy, are its experts. `Ranking` is what
``sclip tune --unlabelled PICTURES/`` writes; the step `floss` fuses the experts' answers inside each window.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import FileFormatError, PictureError, SettingError
from ..fields import field_of
from ..imaging.tiles import TiledMap
from ..storage.files import write_atomically
from ..storage.fingerprint import fingerprint
from ..storage.reading import load_json, read_text
from ..text.labels import Vocabulary
from .base import PatchScores, Place, Step, Words
from .registry import register_step
from .scores import Kind

FORMAT = "sclip_plugin templates 1"
DEFAULT = "templates.json"
"""File that the step looks for in the current folder where it is given none, as presets give none."""


@dataclass(frozen=True)
class Ranking:
    """Templates by class, the surest first.

    Fields:
        templates: all templates that were compared.
        entropy: (T, C) float64, mean entropy of the pixels that a template gives to a class; NaN: it gives none.
        share: (T, C) float64, the fraction of all pixels that it gives to the class.
        classes: the first name of each class.
        pictures: how many pictures were looked at.
        made_by: the settings that features depend on, for people.
    """

    templates: tuple[str, ...]
    entropy: Tensor = field(repr=False)
    share: Tensor = field(repr=False)
    classes: tuple[str, ...]
    pictures: int = 0
    made_by: dict[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def build(cls, segmenter: Any, pictures: Iterable[Any], labels: Any = None, **changes: Any) -> Ranking:
        """Rank the settings' templates for each class by unlabelled pictures.

        Args:
            segmenter: a `Segmenter`, with the settings that the ranking will be used with.
            pictures: pictures of the domain, as for a segmenter's call.
            labels, **changes: as for a segmenter's call.

        Raises:
            PictureError: there are no pictures, or one can't be read.

        Example:
            >>> import sclip_plugin as sp
            >>> from sclip_plugin.steps.floss import Ranking
            >>> seg = sp.Segmenter.from_pretrained("demo", templates=["a {}.", "a drawing of a {}.", "{}"])
            >>> scene = sp.draw_scene(seed=7)
            >>> ranking = Ranking.build(seg, [scene.picture], list(scene.labels))
            >>> len(ranking.best("grass", 2)) <= 2
            True
        """
        settings = segmenter.chosen(None, changes)
        vocabulary = segmenter.vocabulary_of(labels, settings)
        words = segmenter.chain.words(vocabulary, settings)
        text = of_templates(words, settings.templates)
        counted, pictured = Counted.of(len(text), len(vocabulary.labels)), 0
        for encoded in segmenter.encode(iter(pictures), settings, dtype=torch.float32):
            counted.add(text.to(encoded.vectors.device), encoded, vocabulary, settings.logit_scale)
            pictured += 1
        if not pictured:
            raise PictureError("no unlabelled pictures were given; expected a few of your own kind.")
        entropy, share = counted.means()
        made_by = segmenter.chain.features_by(settings)
        return cls(settings.templates, entropy, share, first_names(vocabulary), pictured, made_by)

    def best(self, name: str, count: int) -> list[str]:
        """At most ``count`` templates of a class by its first name, the surest first; none if it is unknown."""
        if name not in self.classes:
            return []
        entropy = self.entropy[:, self.classes.index(name)]
        order = entropy.argsort(stable=True)  # NaN comes last
        return [self.templates[i] for i in order.tolist() if not entropy[i].isnan()][:count]

    def save(self, path: str | Path) -> None:
        """Write a JSON file, which people can read: each class's templates, the surest first."""
        said: dict[str, Any] = {"format": FORMAT, "pictures": self.pictures, "features": self.made_by}
        said["templates"] = self.templates
        said["classes"] = {
            name: [
                {"template": template, "entropy": float(self.entropy[i, c]), "share": float(self.share[i, c])}
                for template in self.best(name, len(self.templates))
                for i in [self.templates.index(template)]
            ]
            for c, name in enumerate(self.classes)
        }
        write_atomically(Path(path), json.dumps(said, indent=1, default=repr).encode())

    @classmethod
    def load(cls, path: str | Path) -> Ranking:
        """Read what `save` wrote.

        Raises:
            FileFormatError: no such file, or another format.
        """
        said = load_json(read_text(path), path)
        try:
            if said["format"] != FORMAT:
                raise ValueError(f"its format is {said['format']!r}")
            templates, classes = tuple(map(str, said["templates"])), tuple(said["classes"])
            entropy = torch.full((len(templates), len(classes)), torch.nan, dtype=torch.float64)
            share = torch.zeros_like(entropy)
            for c, rows in enumerate(said["classes"].values()):
                for row in rows:
                    place = templates.index(row["template"])
                    entropy[place, c], share[place, c] = float(row["entropy"]), float(row["share"])
            return cls(templates, entropy, share, classes, int(said["pictures"]), dict(said["features"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FileFormatError(
                f"{path} holds no ranked templates, as sclip tune --unlabelled writes them: {error}"
            ) from error


@dataclass(frozen=True)
class Counted:
    """Sums over pixels.

    Fields:
        entropy, pixels: (T, C) float64: of the pixels that each template gives to each class.
    """

    entropy: Tensor
    pixels: Tensor

    @classmethod
    def of(cls, templates: int, classes: int) -> Counted:
        return cls(*(torch.zeros(templates, classes, dtype=torch.float64) for _ in range(2)))

    def add(self, text: Tensor, look: Any, vocabulary: Vocabulary, scale: float) -> None:
        """Count one picture.

        Args:
            text: (T, K, D), each template's unit vectors of all names.
            look: the picture, encoded.
            vocabulary: maps names to classes.
            scale: factor on cosines before the softmax over names.
        """
        of_name = torch.tensor(vocabulary.class_of_name, device=text.device)
        for place, bank in enumerate(text):
            for _, tile in look.plan.stitched(look.vectors @ bank.T, look.size).tiles():
                found = (scale * tile.flatten(0, 1)).softmax(dim=1)
                entropy = -(found * (found + 1e-10).log()).sum(dim=1)
                index = of_name[found.argmax(dim=1)].cpu()
                self.entropy[place].index_add_(0, index, entropy.double().cpu())
                self.pixels[place] += index.bincount(minlength=self.pixels.shape[1])

    def means(self) -> tuple[Tensor, Tensor]:
        """Mean entropy, NaN where there are no pixels, and share of all pixels, (T, C) each."""
        return self.entropy / self.pixels, self.pixels / self.pixels.sum(dim=1, keepdim=True)


def first_names(vocabulary: Vocabulary) -> tuple[str, ...]:
    """Of each class its first name, by which a ranking knows it."""
    return tuple(vocabulary.names[vocabulary.class_of_name.index(c)] for c in range(len(vocabulary.labels)))


def of_templates(words: Words, templates: Sequence[str]) -> Tensor:
    """(T, K, D): unit vectors of all names in each template alone; names that are vectors are the same in all."""
    names, given = words.vocabulary.names, {i for i, _ in words.vocabulary.vectors}
    said = [i for i in range(len(names)) if i not in given]
    text = words.text.expand(len(templates), -1, -1).clone()
    if said:
        prompts = [template.replace("{}", names[i]) for template in templates for i in said]
        text[:, said] = words.embed(prompts, ("{}",)).unflatten(0, (len(templates), len(said))).to(text)
    return text


def banks_of(text: Tensor, experts: Sequence[Sequence[int]], ordinary: Tensor) -> Tensor:
    """(C + 1, K, D): all names in the templates of each class's experts, and the ordinary bank.

    Args:
        text: (T, K, D), as `of_templates` gives it.
        experts: of each class the places of its templates; none: the ordinary bank is its expert.
        ordinary: (K, D).
    """
    banks = [F.normalize(text[list(places)].mean(dim=0), dim=1) if places else ordinary for places in experts]
    return torch.stack([*banks, ordinary])


def fused(found: Tensor, of_name: Tensor) -> Tensor:
    """Probabilities (..., C + 1, K) of the experts and of the ordinary bank to those of the bank that speaks, (..., K).

    A pixel belongs to an expert if the expert's bank gives it to the expert's own class. Of several the one with the
    largest probability speaks; if it belongs to none, the ordinary bank does.
    """
    largest, name = found.max(dim=-1)
    classes = found.shape[-2] - 1
    own = of_name[name[..., :classes]] == torch.arange(classes, device=found.device)
    best, expert = largest[..., :classes].masked_fill(~own, -1).max(dim=-1)
    speaks = expert.masked_fill(best < 0, classes)
    return found.gather(-2, speaks[..., None, None].expand(*speaks.shape, 1, found.shape[-1])).squeeze(-2)


@register_step("floss")
@dataclass(frozen=True, kw_only=True)
class Floss(Step):
    """Fuses, at each pixel of a window, the answers of the templates that suit each class.

    ``seg(picture, labels, steps="floss('templates.json')")``, with a file of ``sclip tune --unlabelled PICTURES/``. The
    cost is K + 1 times that of comparing K names with a picture. It asks the features, so what steps on patches before
    it made of the scores is lost, and none may follow.

    Fields:
        ranking: the file.
        experts: templates of each class.
        resize: what is resized to a window's pixels: probabilities, as published, or cosines, before the softmax.
    """

    summary: ClassVar[str] = "fuse the templates that suit each class; needs a file of sclip tune --unlabelled"
    source: ClassVar[str] = "FLOSS, arXiv 2504.10487"
    on: ClassVar[Place] = "patches"
    gives: ClassVar[Kind | None] = "probability"
    ranking: str | Path = field_of(DEFAULT, "file that 'sclip tune --unlabelled' made", holds="path")
    experts: int = field_of(4, "templates of each class", low=1)
    resize: Literal["probabilities", "cosines"] = field_of("probabilities", "what is resized to a window's pixels")

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "ranking", str(self.ranking))
        if self.ranking != DEFAULT:  # presets name no file, and are listed without one
            self._known()

    def _known(self) -> Ranking:
        if not Path(self.ranking).is_file():
            raise SettingError(
                f"floss got ranking={str(self.ranking)!r}, which is no file; expected floss('FILE.json'), as 'sclip "
                "tune --unlabelled PICTURES/ --out FILE.json' makes it."
            )
        return _read(self.ranking, Path(self.ranking).stat().st_mtime_ns)

    def identity(self) -> Any:
        """A hash of the ranking and of the options."""
        known = self._known() if Path(self.ranking).is_file() else None
        said = known and [known.templates, known.classes, fingerprint([known.entropy.nan_to_num(-1.0)])]
        return ["floss", said, self.experts, self.resize]

    def __call__(self, given: PatchScores) -> TiledMap:
        ranking, words = self._known(), given.words
        firsts = first_names(words.vocabulary)
        if not set(firsts) & set(ranking.classes):
            raise SettingError(f"{self.ranking} ranks templates for none of {', '.join(firsts)}.")
        best = [ranking.best(name, self.experts) for name in firsts]
        templates = list(dict.fromkeys(template for of_class in best for template in of_class))
        text = of_templates(words, templates)
        banks = banks_of(text, [[templates.index(t) for t in of_class] for of_class in best], words.text)
        return fused_windows(given, banks, self.resize == "cosines")


def fused_windows(given: PatchScores, banks: Tensor, resize_cosines: bool = False) -> TiledMap:
    """The probabilities of the bank that speaks at each pixel, averaged over windows, at the resized picture's size.

    Args:
        given: the patches.
        banks: (C + 1, K, D), as `banks_of` gives them.
        resize_cosines: take the softmax at a window's pixels instead of at its patches.
    """
    words, banks = given.words, banks.to(given.features)
    of_name = torch.tensor(words.class_of_name, device=banks.device)
    constants = banks.new_tensor(words.vocabulary.constants_of_names())
    height, width = (max(box[i] + box[i + 2] for box in given.boxes) for i in (0, 1))
    total, count = banks.new_zeros(height, width, banks.shape[1]), banks.new_zeros(height, width, 1)
    for features, (top, left, high, wide) in zip(given.features, given.boxes, strict=True):
        logits = words.logit_scale * (features @ banks.flatten(0, 1).T).unflatten(-1, banks.shape[:2]).add(constants)
        shown = (logits if resize_cosines else logits.softmax(dim=-1)).flatten(2)
        window = total[top : top + high, left : left + wide]
        for place, tile in given.pixels_of(shown).tiles():
            found = tile.unflatten(-1, banks.shape[:2])
            window[place] += fused(found.softmax(dim=-1) if resize_cosines else found, of_name)
        count[top : top + high, left : left + wide] += 1
    return TiledMap(total / count, limits=given.limits)


@functools.lru_cache(maxsize=4)
def _read(path: str | Path, changed: int) -> Ranking:
    return Ranking.load(path)
