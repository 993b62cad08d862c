"""Names without a vocabulary: which words of a long list a picture shows.

The picture's patches are grouped. Words are taken greedily: each time the one that explains most of what no taken word
explains yet. Words that the model holds alike are one, and a word that presence denies is none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..device import without_autocast
from ..errors import LabelError, PictureError, SettingError, UnsupportedModelError
from ..settings import Settings
from ..steps import Presence, Present, Words
from ..steps.presence import WORDS, null_for
from ..text.labels import Labels, Vocabulary, parse_labels
from ..text.wordbank import Report, WordBank
from ..text.wordlist import AUTO, Auto, WordList, as_auto, auto_of
from .covering import MOST, fit, greedy_cover, likeness, merged, regions
from .segmentation import Segmentation
from .smoothing import MovingMean
from .tuning import Tunes

if TYPE_CHECKING:
    from .encoded import Encoded

ALIKE = 0.8
"""Cosine, seen from the mean word, from which two words mean the same to the model."""
SLACK = 0.5
"""Deviations of the null by which the word that is said may fit worse than the one that was found."""
LEAST = 0.0087
"""Of the null's deviation: what a word must explain, as a mean over the picture's patches (0.001 in the demo)."""
SURE = 3.0
"""Deviations above the null's median that the taken words must fit by; else only the best of them is a name."""
UNNAMED = "unknown"
"""The only label of a picture in which nothing of a list was found. No pixel carries it."""


@dataclass(frozen=True)
class Name:
    """A word that names something in a picture.

    Attributes:
        word: as the list spells it.
        share: about how much of the picture it names, 0 to 1; the shares of all names add up to 1 at most.
        cosine: of the region that it fits best.
        presence: how surely it is there, 0 to 1.
        synonyms: other words of the list that the model holds alike.
    """

    word: str
    share: float
    cosine: float
    presence: float
    synonyms: tuple[str, ...] = ()


class NamesThings(Tunes):
    """`names`, and answers to labels that begin with ``"@auto"``, for a segmenter."""

    paths: bool
    named_files: frozenset[str] = frozenset()
    """Lists that may be read where ``paths`` is False."""

    def names(
        self,
        picture: Any,
        top: int = MOST,
        labels: Any = AUTO,
        settings: Settings | None = None,
        *,
        report: Report | None = None,
        **changes: Any,
    ) -> tuple[Name, ...]:
        """Say what is in a picture, without a vocabulary.

        Args:
            picture: a picture as for a call, or an `Encoded`.
            top: how many names at most.
            labels: ``"@auto"``: the shipped list; ``"@auto:FILE"``: one's own, a file as `read_labels` reads it;
                ``"@auto, cat"``: offer "cat" too, which is preferred to its synonyms.
            settings, changes: as for a call.
            report: told of the progress where the list's embeddings are computed; see `WordBank.of`.

        Returns:
            The names, largest share first.

        Raises:
            LabelError: the list can't be read.
            SettingError: the model has no null of presence, which holds the floor: see `Presence.build`.
            PictureError: the picture can't be read.

        Source: a word list in place of the captions of CaSED (arXiv 2306.00917); greedy cover over regions.

        Example:
            >>> import sclip_plugin as sp
            >>> scene = sp.draw_scene(seed=7)
            >>> seg = sp.Segmenter.from_pretrained("demo")
            >>> found = {name.word for name in seg.names(scene.picture, labels=["@auto", *scene.labels])}
            >>> found == set(scene.labels)
            True
        """
        from .encoded import Encoded

        auto = auto_of(labels)
        if not isinstance(top, int) or top < 1:
            raise SettingError(f"top={top!r}; expected an integer of 1 or more.")
        if not isinstance(picture, Encoded):
            picture = self.encode(picture, settings, dtype=torch.float32, **changes)  # type: ignore[attr-defined]
            settings, changes = None, {}
        chosen = picture.chosen(settings, changes)
        return self.found(picture, auto, chosen, report=report)[:top]

    @torch.inference_mode()
    def found(
        self,
        encoded: Encoded,
        auto: Auto,
        settings: Settings,
        centres: tuple[Tensor, Tensor] | None = None,
        report: Report | None = None,
    ) -> tuple[Name, ...]:
        """The names of an encoded picture.

        Args:
            centres: unit features (k, D) of regions and their shares (k,), in place of groups of patches.
        """
        null = self.null_of_names(settings)
        with without_autocast(self.device):
            patches = encoded.features().flatten(1).T
            centre, share = regions(F.normalize(patches, dim=1)) if centres is None else centres
            return self.named(patches, centre.cpu(), share.cpu(), auto, settings, null, report)

    def named(
        self,
        patches: Tensor,
        centre: Tensor,
        share: Tensor,
        auto: Auto,
        settings: Settings,
        null: Presence,
        report: Report | None = None,
    ) -> tuple[Name, ...]:
        """The names of regions (k, D) with shares (k,), of which presence is read off patches (N, D)."""
        words = self.words_of(auto)
        offered = frozenset(label.casefold() for label in self._offered(auto))
        bank = self.word_bank.of(words, report)
        cosines = centre @ bank.T
        floor = null.raw_median + null.raw_spread
        taken = greedy_cover(cosines, share, floor, LEAST * null.raw_spread)
        if taken and fit(cosines[:, taken], share, floor) < null.raw_median + SURE * null.raw_spread:
            taken = taken[:1]  # a picture of nothing known, to which many words are a little alike
        alike = likeness(bank, taken, self.word_bank.of(WordList.of(WORDS)).mean(dim=0)) >= ALIKE
        groups = merged(taken, alike, cosines, words, offered, SLACK * null.raw_spread)
        return self._there(patches, groups, cosines, share, words, auto, settings, null)

    def _there(
        self,
        patches: Tensor,
        groups: dict[int, list[int]],
        cosines: Tensor,
        share: Tensor,
        words: WordList,
        auto: Auto,
        settings: Settings,
        null: Presence,
    ) -> tuple[Name, ...]:
        """The names of groups that presence does not deny, each asked beside the others and what is offered."""
        step = next((step for step in settings.make_steps() if isinstance(step, Present)), None)
        least = max(0.5, step.threshold if step else 0.0)
        heads = list(groups)
        numbers: dict[str, float] = {}
        while heads:
            labels = {**dict.fromkeys(self._offered(auto)), **dict.fromkeys(words.words[head] for head in heads)}
            asked = self.words_for(parse_labels(list(labels)), settings)
            seen = patches @ torch.cat([asked.text, null.mean[None].to(asked.text)]).T
            numbers = null.numbers(seen[:, :-1], seen[:, -1], asked)
            kept = [head for head in heads if numbers[words.words[head]] >= least]
            if len(kept) == len(heads):
                break
            heads = kept
        if not heads:
            return ()
        best = cosines[:, heads].argmax(dim=1)
        shares = torch.zeros(len(heads)).scatter_add(0, best, share)
        names = [
            Name(
                words.words[head],
                float(shares[i]),
                float(cosines[:, head].max()),
                numbers[words.words[head]],
                tuple(words.words[other] for other in groups[head]),
            )
            for i, head in enumerate(heads)
        ]
        return tuple(sorted(names, key=lambda name: -name.share))

    def words_of(self, auto: Auto) -> WordList:
        """The list with the offered names in front, which are preferred.

        Raises:
            LabelError: a file that visitors of a server may not name.
        """
        if auto.file is not None and not self.paths and auto.file not in self.named_files:
            raise LabelError(f"@auto:{auto.file} is read only where whoever started the server named it.")
        words = auto.words()
        names = self._offered(auto)
        first = words.words[: words.preferred]
        return WordList.of(words.words[words.preferred :], [*names, *first]) if names else words

    def null_of_names(self, settings: Settings) -> Presence:
        """The null that holds the floor of names, for the features of these settings."""
        if self.chain.knows_presence and self.chain.null is None:
            raise UnsupportedModelError("SAM 3 names nothing by itself: it asks word by word. Use a CLIP for '@auto'.")
        steps = settings.make_steps()
        asked = settings if any(isinstance(step, Present) for step in steps) else settings.changed(present=True)
        null = null_for(asked, self.chain.null, self.answers, self.encoder.dtype)
        if null is None or not null.raw_spread:
            why = "was learned by an older release" if null is not None else "belongs to other settings"
            raise SettingError(
                f"names without a vocabulary need the model's null of presence, and its own {why}: learn it with "
                "'sclip presence build FOLDER', and name the file: present='FILE'."
            )
        return null

    def words_for(self, vocabulary: Vocabulary, settings: Settings) -> Words:
        """`Chain.words` of names that change from picture to picture."""
        text = self.text_bank.embed_each(vocabulary.names, settings.templates)
        return self.chain.words(vocabulary, settings, text if not vocabulary.vectors else None)

    @property
    def word_bank(self) -> WordBank:
        bank: WordBank | None = self.__dict__.get("_word_bank")
        if bank is None or bank.text_bank is not self.text_bank:
            bank = self.__dict__["_word_bank"] = WordBank(self.text_bank)
        return bank

    def _offered(self, auto: Auto) -> tuple[str, ...]:
        vocabulary = auto.vocabulary((), background=False)
        return vocabulary.labels if vocabulary else ()

    def asked(self, encoded: Encoded, labels: Labels | None, settings: Settings) -> Segmentation:
        """Segment an encoded picture by labels, or by the names that are found in it."""
        auto = as_auto(labels)
        if auto is None:
            vocabulary = self.vocabulary_of(labels, settings).beside(settings.ignore)  # type: ignore[attr-defined]
            return self.chain.asked(encoded, self.chain.words(vocabulary, settings), settings)
        names = self.found(encoded, auto, settings)
        vocabulary = self._vocabulary(auto, names, settings.background)
        words = self.words_for((vocabulary or parse_labels([UNNAMED])).beside(settings.ignore), settings)
        result = self.chain.asked(encoded, words, settings)
        if vocabulary is None:
            result.label_map[:] = -1
        result.synonyms = {name.word: name.synonyms for name in names if name.synonyms}
        return result

    def _vocabulary(self, auto: Auto, names: Sequence[Name], background: bool) -> Vocabulary | None:
        """What is offered, and the names; None where there is nothing."""
        offered = self._offered(auto)
        vocabulary = auto.vocabulary([name.word for name in names if name.word not in offered], background)
        return vocabulary and self.as_taught(vocabulary)

    def words_of_masks(
        self, encoded: Encoded, labels: Labels | None, settings: Settings, seen: Tensor | None, masks: np.ndarray
    ) -> tuple[Vocabulary, Tensor]:
        """Labels and their embeddings for masks (R, H, W) with mean features (R, D); None: there are no masks."""
        auto = as_auto(labels)
        if auto is None:
            return self.text_embeddings(labels, settings)  # type: ignore[attr-defined]
        centres = None
        if seen is not None:
            areas = torch.from_numpy(masks.mean(axis=(1, 2))).float()
            centres = seen, areas / areas.sum().clamp(min=1e-6)
        names = self.found(encoded, auto, settings, centres)
        vocabulary = self._vocabulary(auto, names, settings.background) or parse_labels([UNNAMED])
        return vocabulary, self.words_for(vocabulary, settings).text

    def segmented(
        self, prepared: Iterable[Any], labels: Labels | None, settings: Settings, smoothing: MovingMean
    ) -> Iterator[Any]:
        """Segment prepared pictures in order, by labels or by the names of each; an error in place of one is passed on.

        Raises:
            SettingError: names are asked for with smoothing, or with a method whose features depend on words.
        """
        from .encoded import Encoded

        auto = as_auto(labels)
        if auto is None:
            vocabulary = self.vocabulary_of(labels, settings)  # type: ignore[attr-defined]
            return self.chain.segmented(prepared, vocabulary, settings, smoothing)
        if smoothing.share or settings.make_method().needs_text:
            raise SettingError(
                f"'@auto' names each picture anew, which goes neither with smoothing={smoothing.share:g} nor with a "
                f"method whose features depend on the words, such as resclip; the method is {settings.method}."
            )
        self.words_of(auto), self.null_of_names(settings)  # errors before the first picture
        looks = self.chain.encoded(prepared, settings, torch.float32)
        return (
            look if isinstance(look, PictureError) else self.asked(Encoded.of(self, settings, look), auto, settings)  # type: ignore[arg-type]
            for look in looks
        )

    def identity_by(self, labels: Labels | None, settings: Settings) -> str:
        """A hash of all that a result depends on beside the picture."""
        auto = as_auto(labels)
        if auto is None:
            return self.chain.identity(settings, self.vocabulary_of(labels, settings))  # type: ignore[attr-defined]
        vocabulary = auto.vocabulary((), settings.background) or parse_labels([UNNAMED])
        said = [self.chain.identity(settings, vocabulary), self.words_of(auto).identity()]
        said.append(self.null_of_names(settings).identity())
        return hashlib.sha256(" ".join(said).encode()).hexdigest()
