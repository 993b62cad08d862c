"""The chain of one model: prepare -> encode -> steps -> Segmentation.

If the words are known beforehand and no step works on patches, a window keeps its patches' scores instead of their
features, which takes less memory. The same functions run in the same order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..device import Budget, without_autocast
from ..errors import PictureError, SettingError
from ..imaging.tiles import TiledMap
from ..settings import Settings
from ..steps import Presence, Words
from ..steps.presence import null_for
from ..storage.fingerprint import fingerprint, identity_of
from ..text.bank import TextBank
from ..text.labels import Vocabulary
from ..text.towers import find_text_tower
from ..towers import Tower, find_tower
from ..towers.layers import base_of, is_multihead
from ..towers.registry import unwrapped
from .answering import Beside, Question, answer, scores_of
from .encoding import Encoder, Look, Prepared, Run, bound, key_of, looking_steps
from .regions import Regions, masks_in, regions_of
from .segmentation import Segmentation
from .smoothing import MovingMean


@dataclass
class Chain:
    """A model that looks at pictures and embeds words.

    Fields:
        model: the whole CLIP.
        encoder: its image tower, with normalisation and batch sizes.
        text_bank: its text tower, with a cache of embeddings.
        null: its null of presence; None: it has none.
    """

    model: nn.Module
    encoder: Encoder
    text_bank: TextBank
    null: Presence | None = None

    @classmethod
    def of(
        cls,
        model: nn.Module,
        tokenizer: Any,
        image_mean: Sequence[float] | None = None,
        image_std: Sequence[float] | None = None,
        cache_dir: str | Path | None | bool = None,
        budget: Budget | None = None,
        presence: Presence | str | Path | None = None,
    ) -> Chain:
        """A chain for a model in hand; arguments as for `Segmenter`. The model is put into eval mode."""
        tower = find_tower(model)
        mean, std = torch.tensor(image_mean or tower.mean), torch.tensor(image_std or tower.std)
        encoder = Encoder(tower, mean, std, budget)
        null = Presence.load(presence) if isinstance(presence, (str, Path)) else presence
        return cls(model.eval(), encoder, TextBank(find_text_tower(model, tokenizer), cache_dir), null)

    def weights(self) -> str:
        """A hash of all bits of the model's weights and buffers, of the active adapters, and of the activations."""
        model = unwrapped(self.model)
        if any(is_multihead(base_of(module)) for module in model.modules() if base_of(module) is not module):
            # PEFT adds its adapters to these weights for each call and takes them off again, which rounds the weights
            # once: after a call they stay what they are.
            self.answers()
        return identity_of(model)

    def model_identity(self) -> str:
        """A hash of the model and the normalisation: all that features depend on beside settings."""
        return self.weights()[:32] + fingerprint([self.encoder.mean, self.encoder.std])[:16]

    @torch.inference_mode()
    def answers(self) -> list[list[float]]:
        """The model's embeddings of a fixed picture and of three fixed prompts: first 64 values of the unit vectors.

        They show changes that `weights` can't see (a hook, a replaced forward). Last digits differ between processors:
        see `sclip_plugin.storage.fingerprint.alike`.
        """
        tower = self.encoder.tower
        height, width = (side * patch for side, patch in zip(tower.native_grid, tower.patch_size, strict=True))
        waves = torch.stack([torch.linspace(0, n * 3.0, height * width).sin() for n in (1, 7, 50)])
        with without_autocast(self.encoder.device):
            picture = self.encoder.embed_pixels(waves.view(1, 3, height, width))
            answers = [*picture, *self.text_bank.answers()]
        return [row[:64].tolist() for row in answers]

    def identity(self, settings: Settings, vocabulary: Vocabulary) -> str:
        """A hash of all that a result depends on beside the picture."""
        pixels = [self.encoder.mean.tolist(), self.encoder.std.tolist()]
        words = self.text_bank.identity(vocabulary.names, settings.templates)
        null = self.null_for(settings)
        said = [self.weights(), settings.identity(), pixels, vocabulary.identity(), words, null and null.identity()]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()

    @property
    def knows_presence(self) -> bool:
        """Whether presence needs no null that is learned from pictures."""
        return self.null is not None

    def defaults(self) -> Settings:
        """The settings of a segmenter where none are given."""
        tower = self.encoder.tower
        native = tower.native_grid[0] * tower.patch_size[0]
        steps = () if self.null is None else ("present",)
        return Settings(resize_short_side=native * 3 // 2, window=native, steps=steps)

    def checked(self, settings: Settings) -> Settings:
        """The settings.

        Raises:
            SettingError, UnsupportedModelError: the model can't have them.
        """
        method = settings.make_method()
        if method.called() == "sam3":  # others are asked when the tower is reached, beside what their options name
            method.check_tower(self.encoder.tower)
        return settings

    def null_for(self, settings: Settings) -> Presence | None:
        """The null by which a question reads presence, see `sclip_plugin.steps.presence.null_for`."""
        return null_for(settings, self.null, self.answers, self.encoder.dtype)

    def features_by(self, settings: Settings) -> dict[str, Any]:
        """What features depend on beside the model, by name, as values that JSON holds."""
        normalisation = {"image_mean": self.encoder.mean.tolist(), "image_std": self.encoder.std.tolist()}
        return {**settings.plain_features(), **normalisation}

    def words(self, vocabulary: Vocabulary, settings: Settings, text: Tensor | None = None) -> Words:
        """The names of a question with their embeddings: ``text`` if they are known.

        Raises:
            LabelError: the vocabulary was tuned for another model, or for other features.
        """
        vocabulary.check(self, settings)
        templates = settings.templates
        text = self.text_bank.embed_vocabulary(vocabulary, templates) if text is None else text
        return Words(
            vocabulary,
            text,
            templates,
            settings.logit_scale,
            lambda names, templates=templates: self.text_bank.embed(tuple(names), templates),
        )

    def beside(self) -> Beside:
        """The properties of the model that steps may use."""
        encoder = self.encoder
        return Beside(
            patch_size=encoder.tower.patch_size,
            device=encoder.device,
            dtype=encoder.dtype,
            mean=encoder.mean,
            std=encoder.std,
            identity=cache(self.model_identity),  # once a question
            embed_pixels=encoder.embed_pixels,
            limits=encoder.limits,
        )

    def prepared(self, pictures: Iterable[Any], settings: Settings, on_error: str, paths: bool) -> Iterator[Any]:
        """Prepare pictures on demand; ``on_error`` tells what becomes of unreadable ones."""
        for picture in pictures:
            try:
                prepared = self.encoder.prepare(picture, settings, self.encoder.device, paths)
            except PictureError as error:
                if on_error == "raise":
                    raise
                if on_error == "return":
                    yield error
            else:
                yield prepared

    @torch.inference_mode()
    def encoded(
        self, prepared: Iterable[Any], settings: Settings, dtype: torch.dtype, text: Tensor | None = None
    ) -> Iterator[Look | PictureError]:
        """Features of prepared pictures in ``dtype``, with image embeddings and the results of `Step.look`."""
        run = Run(
            method=bound(settings, self.encoder, torch.empty(0) if text is None else text),
            settings=settings,
            keep=lambda features: features.to(dtype),
            embeddings=True,
            steps=tuple(looking_steps(settings, len(self.encoder.tower.blocks))),
        )
        for look in self.encoder.run(prepared, run):
            if isinstance(look, Look):
                assert look.windows is not None and look.image is not None, "asked for"
                look = replace(look, windows=look.windows.to(dtype), image=look.image.to(dtype))
            yield look

    @torch.inference_mode()
    def segmented(
        self, prepared: Iterable[Any], vocabulary: Vocabulary, settings: Settings, smoothing: MovingMean | None = None
    ) -> Iterator[Segmentation | PictureError]:
        """Segment prepared pictures in order; an error in place of a picture is passed on."""
        vocabulary = vocabulary.beside(settings.ignore)
        words, beside, null = self.words(vocabulary, settings), self.beside(), self.null_for(settings)
        looks: Iterator[Look | PictureError]
        features = any(step.on == "patches" and step.needs_features for step in settings.make_steps())
        if features:
            looks = self.encoded(prepared, settings, torch.float32, words.text)
        else:
            method = bound(settings, self.encoder, words.text)
            rows = words.text if null is None else torch.cat([words.text, null.mean[None].to(words.text)])
            looks = self.encoder.run(prepared, Run(method, settings, lambda features: features @ rows.T))
        for look in looks:
            if isinstance(look, PictureError):
                yield look
                continue
            asked = Question(look, words, settings, beside, null)
            yield answer(asked, scores_of(asked) if features else look.vectors, smoothing)

    def asked(self, look: Look, words: Words, settings: Settings) -> Segmentation:
        """Segment a picture that was encoded before.

        Raises:
            SettingError: a step needs the picture, which is unknown.
        """
        look = self._with_pixels(look, settings)
        asked = Question(look, words, settings, self.beside(), self.null_for(settings))
        return answer(asked, scores_of(asked))

    def _with_pixels(self, look: Look, settings: Settings) -> Look:
        """The look with the pixels, and the looks of steps, that the question needs."""
        sees_pixels = any(step.on != "labels" and step.needs_features for step in settings.make_steps())
        if look.picture is not None and look.pixels is None and sees_pixels:
            prepared = self.encoder.prepare(look.picture, settings, self.encoder.device)
            look = replace(look, pixels=prepared.pixels)
        missing = [
            step for step in looking_steps(settings, len(self.encoder.tower.blocks)) if key_of(step) not in look.looked
        ]
        if not missing:
            return look
        if look.pixels is None:
            raise SettingError(
                f"the step {missing[0].called()} looks at the tower's blocks, and of this encoded picture only "
                "features are known; expected Encoded.load(path, segmenter, picture=...), or one encoded with the step."
            )
        again = next(self.encoded([Prepared(look.picture, look.pixels, look.size)], settings, look.vectors.dtype))
        assert isinstance(again, Look)
        return replace(look, looked=again.looked)

    @torch.inference_mode()
    def unit_features(self, pictures: Iterable[Any], settings: Settings) -> Iterator[TiledMap]:
        """Unit features of pictures on their patch grids, overlapping windows averaged."""
        method = bound(settings, self.encoder, torch.empty(0))
        prepared = self.prepared(pictures, settings, "raise", True)
        for look in self.encoder.run(prepared, Run(method, settings, lambda features: features)):
            assert isinstance(look, Look)
            yield look.plan.stitched(look.vectors, look.plan.grid(self.encoder.tower.patch_size))

    @torch.inference_mode()
    def raw_features(self, prepared: Iterable[Any], settings: Settings) -> Iterator[tuple[TiledMap, Regions | None]]:
        """Yield (dense feature map, region id map) per picture.

        Overlapping windows are averaged. Features are not normalised.
        """
        method = bound(settings, self.encoder, torch.empty(0))
        for look in self.encoder.run(prepared, Run(method, settings, lambda features: features, unit=False)):
            assert isinstance(look, Look)
            maps = replace(look.plan.stitched(look.vectors, look.size), limits=self.encoder.limits)
            yield maps, regions_of(masks_in(look.picture, look.pixels, settings), look.size)


class OfModel:
    """The model's properties, for classes that have a chain."""

    chain: Chain

    @property
    def model(self) -> nn.Module:
        return self.chain.model

    @property
    def tower(self) -> Tower:
        return self.chain.encoder.tower

    @property
    def encoder(self) -> Encoder:
        return self.chain.encoder

    @property
    def text_bank(self) -> TextBank:
        return self.chain.text_bank

    @property
    def device(self) -> torch.device:
        """The model's device, which may change at any time."""
        return self.chain.encoder.device

    @property
    def dtype(self) -> str:
        """Precision of the model's weights, such as ``"float32"``."""
        return str(self.chain.encoder.dtype).removeprefix("torch.")

    def weights(self) -> str:
        """A hash of all bits of the model's weights and buffers, of the active adapters, and of the activations."""
        return self.chain.weights()

    def answers(self) -> list[list[float]]:
        """The model's embeddings of a few fixed inputs; see `Chain.answers`."""
        return self.chain.answers()

    def model_identity(self) -> str:
        """A hash of the model and the normalisation: all that features depend on beside settings."""
        return self.chain.model_identity()
