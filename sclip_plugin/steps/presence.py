"""Presence: whether a word is in the picture at all, as a number from 0 to 1, without training.

A word is seen without the direction of the mean picture. At each patch the offered words compete. The mean of the
highest 1.25 % of patches is compared with a null: what such means are for words and pictures that were not chosen for
one another. The null belongs to a model and to the settings that decide its features.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from ..errors import ArgumentTypeError, FileFormatError, SettingError
from ..fields import field_of
from ..storage.files import write_atomically
from ..storage.fingerprint import alike
from ..text.labels import BACKGROUND
from .base import Place, Step, Words
from .registry import register_step

if TYPE_CHECKING:
    from ..imaging.pictures import Picture

FEWEST = 5
"""Pictures that a null needs, and the number of classes below which there is too little competition."""
PATCHES_A_PEAK = 80
FORMAT = "sclip_plugin presence 1"
KEPT = "presence.safetensors"
"""File of a null that was learned from pictures at hand: in the folder of results, of an index, or of a memory."""
WORDS = tuple(
    "apple ball bed bench bicycle bird boat book bottle bowl bridge bus cake car cat chair cloud cow cup dog door "
    "elephant fence field fire fish flower fruit glass grass hat horse house lamp leaf man mountain person phone plane "
    "plate pot river road rock sand sea sheep shoe sign sky snow sofa spoon stair table tower train tree truck wall "
    "water window woman".split()
)
"""Everyday nouns that a null is learned with where no words are given."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Presence:
    """The null of a model: what the peaks of words are in pictures that were not chosen for them.

    Attributes:
        mean: (D,) float32, unit direction of the mean picture.
        low: value of a patch at which another word is higher.
        median, spread: of the peaks of all words in all pictures; spread is 1.4826 times their median deviation.
        raw_median, raw_spread: the same of the highest plain cosine of each word in each picture, from which names
            without a vocabulary take their floor; a spread of 0: unknown, learned by an older release.
        threshold: standardised peak from which a word is called present.
        slope: steepness of the number around the threshold.
        answers: (n, 64), the model's embeddings of fixed inputs, as `Segmenter.answers` gives them.
        features: identity of the settings that decide features.
        pictures: number of pictures that it was learned from.

    Example:
        >>> import sclip_plugin as sp
        >>> seg = sp.Segmenter.from_pretrained("demo")
        >>> null = sp.Presence.build(seg, [sp.draw_scene(seed=seed).picture for seed in range(5)])
        >>> scene = sp.draw_scene(seed=7)
        >>> result = seg(scene.picture, [*scene.labels, "zebra"], present=null)
        >>> [word for word, number in result.presence.items() if number < 0.5]
        ['zebra']
    """

    mean: Tensor = field(repr=False)
    low: float
    median: float
    spread: float
    raw_median: float = 0.0
    raw_spread: float = 0.0
    threshold: float = 2.0
    slope: float = 3.0
    answers: Tensor = field(default_factory=lambda: torch.zeros(0, 64), repr=False)
    features: str = ""
    pictures: int = 0

    @classmethod
    def build(
        cls,
        segmenter: Any,
        pictures: Iterable[Picture],
        words: Iterable[str] = WORDS,
        *,
        settings: Any = None,
        **changes: Any,
    ) -> Presence:
        """Learn the null of a model from unlabelled pictures.

        Args:
            segmenter: a segmenter of the model.
            pictures: five or more pictures of any size, in any form that a segmenter takes. Twenty are enough.
            words: fifty or more words of any kind.
            settings, **changes: as for a segmenter's call.

        Raises:
            SettingError: fewer than five pictures.
            PictureError: a picture can't be read.

        Source: measured on the demo only; the default threshold comes from there.
        """
        chosen = (settings or segmenter.settings).changed(**changes)
        if chosen.make_method().needs_text:
            raise SettingError(
                f"the features of {chosen.method} depend on the words, so presence has nothing to learn beforehand; "
                "expected another method, or present=False."
            )
        _, text = segmenter.text_embeddings(list(words), chosen)
        seen = [maps.full().flatten(0, 1).cpu() for maps in segmenter.chain.unit_features(pictures, chosen)]
        null = cls.learned(seen, text.cpu())
        answers = torch.tensor(segmenter.answers())
        return dataclasses.replace(null, answers=answers, features=chosen.feature_identity())

    @classmethod
    def learned(cls, features: Sequence[Tensor], text: Tensor) -> Presence:
        """The null of features (N, D) of each picture, and of unit embeddings of words (K, D).

        Raises:
            SettingError: fewer than five pictures.
        """
        if len(features) < FEWEST:
            raise SettingError(
                f"presence was given {len(features)} pictures to learn from; expected {FEWEST} or more unlabelled "
                "pictures of the kind that you ask about: sclip presence build FOLDER."
            )
        mean = F.normalize(torch.cat(list(features)).mean(dim=0), dim=0)
        cosines = [seen @ without(text, mean).T for seen in features]
        peaks = torch.cat([peaks_of(each) for each in cosines])
        (median, spread), raw = _middle(peaks), _middle(torch.cat([(seen @ text.T).amax(dim=0) for seen in features]))
        return cls(
            mean=mean,
            low=float(np.quantile(torch.cat(cosines).numpy(), 0.02)),
            median=median,
            spread=spread,
            raw_median=raw[0],
            raw_spread=raw[1],
            pictures=len(features),
        )

    @torch.enable_grad()
    def fitted(self, standings: Tensor, there: Tensor) -> Presence:
        """The null with the threshold and slope of the lowest Brier score, which no single mistake can draw away.

        Few pictures move it little: it starts from the threshold and slope that it has, with deviations of 1 and of a
        factor 2.

        Args:
            standings: (n,), standardised peaks of words, (peak - median) / spread, less 0.5 where fewer than five
                classes were offered.
            there: (n,), bool: the word is in the picture.

        Example:
            >>> import torch
            >>> null = Presence(mean=torch.zeros(4), low=0.0, median=0.0, spread=1.0)
            >>> z = torch.linspace(-2, 8, 200)
            >>> round(null.fitted(z, z > 4).threshold)
            4
        """
        z, truth = standings.double(), there.double()
        threshold = torch.tensor(self.threshold, dtype=torch.float64, requires_grad=True)
        factor = torch.zeros((), dtype=torch.float64, requires_grad=True)
        optimiser = torch.optim.LBFGS([threshold, factor], max_iter=200, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimiser.zero_grad()
            numbers = torch.sigmoid(self.slope * factor.exp() * (z - threshold))
            total = (
                2 * ((numbers - truth) ** 2).sum()
                + (threshold - self.threshold) ** 2 / 2
                + (factor / math.log(2)) ** 2 / 2
            )
            total.backward()
            return total

        optimiser.step(loss)
        slope = self.slope * float(factor.detach().exp())
        return dataclasses.replace(self, threshold=float(threshold.detach()), slope=slope)

    def numbers(self, cosines: Tensor, along: Tensor, words: Words) -> dict[str, float]:
        """How surely each class is in the picture, 0 to 1; 0.5 is the threshold.

        Classes with vectors or taught by pictures, and the background vocabulary, have no number.

        Args:
            cosines: (N, K), cosines of all patches of the picture and all names.
            along: (N,), cosines of the patches with `mean`.
            words: the names.
        """
        given = {words.class_of_name[index] for index, _ in words.vocabulary.vectors}
        asked = [
            index
            for index, label in enumerate(words.class_of_name)
            if label not in given and words.labels[label] != BACKGROUND
        ]
        if not asked:
            return {}
        text = words.text[asked].to(cosines.device)
        of_class = torch.tensor([words.class_of_name[index] for index in asked], device=cosines.device)
        share = text @ self.mean.to(text)
        seen = (cosines[:, asked] - along[:, None] * share) / (1 - share**2).clamp(min=1e-6).sqrt()
        peaks = peaks_of(self._competed(seen, of_class))
        best = peaks.new_full((len(words.labels),), -torch.inf).scatter_reduce(0, of_class, peaks, "amax").tolist()
        classes = of_class.unique().tolist()
        return {words.labels[index]: self.number(best[index], len(classes)) for index in classes}

    def number(self, peak: float, competing: int) -> float:
        """Presence, 0 to 1, of a peak.

        Args:
            peak: mean of the highest cosines of a word, seen without `mean`.
            competing: number of classes offered. Of fewer than five the threshold is higher by 0.5.
        """
        threshold = self.threshold + (0.5 if competing < FEWEST else 0.0)
        exponent = self.slope * ((peak - self.median) / self.spread - threshold)
        return 1 / (1 + math.exp(-min(max(exponent, -80.0), 80.0)))

    def _competed(self, seen: Tensor, of_class: Tensor) -> Tensor:
        """(N, K) with `low` where a name of another class is higher at the patch."""
        index, count = of_class.expand_as(seen), int(of_class.max()) + 1
        best = seen.new_full((len(seen), count), -torch.inf).scatter_reduce(1, index, seen, "amax")
        if count == 1:
            return seen
        (first, second), winner = best.topk(2, dim=1).values.unbind(dim=1), best.argmax(dim=1)
        others = torch.where(of_class == winner[:, None], second[:, None], first[:, None])
        return seen.masked_fill(others > seen, self.low)

    def identity(self) -> str:
        """A hash of all that a presence depends on beside picture and words."""
        digest = hashlib.sha256(self.mean.numpy().tobytes())
        digest.update(json.dumps(self._values()).encode())
        return digest.hexdigest()

    def save(self, path: str | Path) -> None:
        """Write a safetensors file.

        Raises:
            OSError: the file can't be written.
        """
        write_atomically(
            Path(path),
            save({"mean": self.mean, "answers": self.answers}, {"format": FORMAT, "null": json.dumps(self._values())}),
        )

    @classmethod
    def load(cls, path: str | Path) -> Presence:
        """What `save` wrote.

        Raises:
            FileFormatError: another file.
        """
        try:
            with safe_open(path, framework="pt") as file:
                if file.metadata().get("format") != FORMAT:
                    raise ValueError("another format")
                tensors = {name: file.get_tensor(name) for name in ("mean", "answers")}
                return cls(**tensors, **json.loads(file.metadata()["null"]))
        except Exception as error:  # whatever a broken or foreign file makes of the reader
            raise FileFormatError(
                f"{path} is no presence, as 'sclip presence build FOLDER' writes it: {error}"
            ) from error

    def _values(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("mean", "answers")}


def _middle(values: Tensor) -> tuple[float, float]:
    """Median, and 1.4826 times the median deviation from it."""
    median = values.median()
    return float(median), 1.4826 * float((values - median).abs().median())


def without(text: Tensor, mean: Tensor) -> Tensor:
    """Unit vectors (K, D) without their part along ``mean``, of unit length again."""
    return F.normalize(text - (text @ mean)[:, None] * mean, dim=1)


def peaks_of(cosines: Tensor) -> Tensor:
    """(K,) mean of the highest 1.25 % of patches, one at least, of (N, K)."""
    return cosines.topk(max(1, round(len(cosines) / PATCHES_A_PEAK)), dim=0).values.mean(dim=0)


@functools.lru_cache(maxsize=4)
def _read(path: str, changed: int) -> Presence:
    """A null's file, read once for all pictures; anew where it was ``changed``."""
    return Presence.load(path)


def null_of_memory(settings: Any) -> Presence | None:
    """The null that was learned with the memory bank that the settings name."""
    folders = [Path(step.folder) for step in settings.make_steps() if step.called() == "memory"]
    path = next((folder / KEPT for folder in folders if (folder / KEPT).is_file()), None)
    return None if path is None else _read(str(path), path.stat().st_mtime_ns)


@register_step("present")
@dataclass(frozen=True, kw_only=True)
class Present(Step):
    """Keeps absent words from painting: their pixels go to the best of the words that are there.

    Presence is read off the cosines before any other step. Classes given as vectors, and background, are always there.
    If no class is there, no pixel has a label.

    Fields:
        threshold: classes of a lower presence paint nothing. 0: report presence, and paint all.
        null: the null of the model, a file of ``sclip presence build`` or a `Presence`; default: the one that came with
            the model, else that of the memory bank among the steps.

    Example:
        >>> import sclip_plugin as sp
        >>> scene = sp.draw_scene(seed=7)
        >>> result = sp.Segmenter.from_pretrained("demo")(scene.picture, [*scene.labels, "zebra"])
        >>> result.settings["steps"], bool(result.mask("zebra").any())
        (['present'], False)
    """

    summary: ClassVar[str] = "words that are not in the picture paint nothing"
    on: ClassVar[Place] = "patches"
    needs_features: ClassVar[bool] = False
    threshold: float = field_of(0.5, "classes of a lower presence paint nothing", low=0, high=1)
    null: str | Presence | None = field_of(None, "file that 'sclip presence build' made", holds="path")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.null is None or isinstance(self.null, Presence) or (isinstance(self.null, str) and self.null)):
            raise ArgumentTypeError(
                f"present got null={self.null!r:.100}; expected a file of 'sclip presence build', a Presence, or None."
            )
        if isinstance(self.null, str) and not Path(self.null).is_file():
            raise SettingError(f"present got null={self.null!r}, which is no file; make it with sclip presence build.")

    def own_null(self) -> Presence | None:
        """The null that the step names."""
        return _read(self.null, Path(self.null).stat().st_mtime_ns) if isinstance(self.null, str) else self.null

    def identity(self) -> Any:
        null = self.own_null()
        return ["present", self.threshold, null and null.identity()]

    def absent(self, presence: Mapping[str, float], labels: Sequence[str]) -> frozenset[int]:
        """Indices of the classes that paint nothing."""
        return frozenset(i for i, label in enumerate(labels) if presence.get(label, 1.0) < self.threshold)

    def __call__(self, given: Any) -> Any:
        raise NotImplementedError("the chain asks for `absent`, since presence is read before any step")


def null_for(settings: Any, own: Presence | None, answers: Any, dtype: torch.dtype) -> Presence | None:
    """The null by which a question reads presence; None without the step, and where the model's own does not fit.

    Args:
        settings: of the question.
        own: the null that came with the model.
        answers: function that gives the model's answers, as `Segmenter.answers`.
        dtype: precision of the model's weights.

    Raises:
        SettingError: there is no null, or the named one belongs to another model or other settings.
    """
    step = next((step for step in settings.make_steps() if isinstance(step, Present)), None)
    if step is None:
        return None
    null = step.own_null() or (null_of_memory(settings) if own is None else None)
    if null is None:
        if own is None:
            raise SettingError(
                "present knows nothing of this model yet: learn its null from five or more unlabelled pictures with "
                "'sclip presence build FOLDER', and name the file: present='FILE'. Or leave it out: present=False."
            )
        return own if own.features == settings.feature_identity() else None
    if null.features != settings.feature_identity():
        raise SettingError(
            f"the null of present was learned with other settings: one of {', '.join(settings.deciding_features())} "
            "differs. Learn it with these, or leave it out: present=False."
        )
    if not alike(torch.tensor(answers()), null.answers, dtype):
        raise SettingError("the null of present belongs to another model; learn it with this one: sclip presence build")
    return null
