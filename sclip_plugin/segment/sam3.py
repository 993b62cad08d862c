"""SAM 3 behind the seam: its vision encoder looks at windows, its detector runs once a word.

SAM 3 has no features that pictures and words share. `Look.looked` keeps what its vision encoder gave of each window. A
question runs the detector, and keeps the few masks that count. The maps of words are computed from those, a band of
rows at a time.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from types import SimpleNamespace
from typing import Any, NoReturn, cast

import torch
from torch import Tensor, nn

from ..device import Budget, without_autocast
from ..errors import LabelError, PictureError, SettingError, UnsupportedModelError
from ..imaging.pictures import read_picture, to_tensor
from ..imaging.resampling import to_picture
from ..imaging.tiles import TiledMap
from ..methods.sam3 import Sam3, WordSeen
from ..settings import Settings
from ..steps import Presence, Present, Words
from ..storage.fingerprint import fingerprint
from ..text.labels import Vocabulary
from .answering import Beside, Question, finished
from .chain import Chain
from .encoding import Encoder, Look, Prepared
from .fused import FusedMaps, Sam3Segmentation
from .segmentation import Segmentation
from .smoothing import MovingMean
from .windows import WindowPlan

TOKENS, WORDS_AT_ONCE = 32, 4
NO_FEATURES = (
    "SAM 3 has no features in a space that it shares with words: no features of pictures or regions, no embeddings of "
    "words, no index, memory or tuned labels can be made with it. Use a Segmenter with a CLIP for those."
)
DEFAULTS = Settings(method="sam3", resize_short_side=0, window=0, templates=("{}",))
FREE = {"method", "ignore", "window", "stride", "masks", "steps"}
POSITIONS = "sam3 positions"
FEATURES = "sam3 features"


class Missing:
    """In the place of something that SAM 3 does not have: whatever is done with it is refused in a sentence."""

    def refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise UnsupportedModelError(NO_FEATURES)

    __call__ = __getitem__ = __matmul__ = __len__ = __iter__ = refuse

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        self.refuse()


@dataclass
class Sam3Encoder(Encoder):
    """SAM 3's vision encoder.

    Fields:
        model: the `Sam3Model`.
        images: its image processor, which stretches a window to the one size that the model takes.
        shared: position encodings by device and precision.
    """

    model: nn.Module | None = None
    images: Any = None
    shared: dict[Any, list[Tensor]] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        return next(cast(nn.Module, self.model).parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(cast(nn.Module, self.model).parameters()).dtype

    def prepare(self, picture: Any, settings: Settings, device: torch.device, paths: bool = True) -> Prepared:
        """Read a picture; it is not resized."""
        if isinstance(picture, Prepared):
            return picture
        rgb = read_picture(picture, paths=paths)
        size = (rgb.height, rgb.width)
        self.plan(size, settings).check_cost(size, getattr(rgb, "filename", "") or "the picture")
        return Prepared(rgb, to_tensor(rgb), size)

    def plan(self, size: tuple[int, int], settings: Settings) -> WindowPlan:
        """The windows of a picture, with a grid of masks in the place of patches."""
        backbone = cast(Any, self.model).config.vision_config.backbone_config
        side = 4 * backbone.image_size // backbone.patch_size
        return WindowPlan.of(size, settings.window, settings.window_stride, (1, 1)).with_patches((side, side))

    def views(self, look: Look) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
        """The feature levels of each window, (1, C, h, w) each, and their position encodings."""
        assert look.pixels is not None
        pixels = look.pixels
        if pixels.is_floating_point():
            pixels = to_tensor(to_picture(pixels, self.mean, self.std))
        for box in look.plan.boxes():
            crop = look.plan.cut(pixels, *box).cpu()
            shown = self.images(images=[crop], input_data_format="channels_first", return_tensors="pt")["pixel_values"]
            seen = cast(Any, self.model).get_vision_features(shown.to(self.device, self.dtype))
            # Position encodings are the same for every window: one set is kept for all encoded pictures.
            positions = self.shared.setdefault((self.device, self.dtype), list(seen.fpn_position_encoding))
            yield list(seen.fpn_hidden_states), positions


@dataclass
class Sam3Chain(Chain):
    """The chain of a SAM 3: the same functions as of any `Chain`; those that need features refuse.

    Fields:
        tokenizer: of its words.
    """

    tokenizer: Any = None

    @staticmethod
    def fits(model: nn.Module) -> bool:
        """Whether the model is a SAM 3."""
        return all(hasattr(model, name) for name in ("get_vision_features", "get_text_features", "mask_decoder"))

    @classmethod
    def of(
        cls,
        model: nn.Module,
        processor: Any,
        image_mean: Any = None,
        image_std: Any = None,
        cache_dir: Any = None,
        budget: Budget | None = None,
        presence: Any = None,
    ) -> Sam3Chain:
        """The chain of a ``Sam3Model`` and its ``Sam3Processor``, which has an image processor and a tokenizer.

        Raises:
            UnsupportedModelError: the processor lacks one of them.
            SettingError: normalisation or a null of presence is given; both are the model's own.
        """
        if not all(hasattr(processor, name) for name in ("image_processor", "tokenizer")):
            raise UnsupportedModelError(
                f"the tokenizer is a {type(processor).__name__}; of a SAM 3 expected its Sam3Processor, which has an "
                "image_processor and a tokenizer."
            )
        images = processor.image_processor
        own = torch.tensor(images.image_mean), torch.tensor(images.image_std)
        for given, ours in ((image_mean, own[0]), (image_std, own[1])):
            if given is not None and not torch.equal(torch.tensor(given), ours):
                raise SettingError(f"pictures normalised by {given}; SAM 3's processor has its own, {ours.tolist()}.")
        if presence is not None:
            raise SettingError("a null of presence was given; SAM 3 has a presence head of its own. Leave it out.")
        encoder = Sam3Encoder(cast(Any, Missing()), *own, budget, model, images)
        return cls(model.eval(), encoder, cast(Any, Missing()), None, processor.tokenizer)

    @property
    def knows_presence(self) -> bool:
        return True

    @property
    def looking(self) -> Sam3Encoder:
        return cast(Sam3Encoder, self.encoder)

    def defaults(self) -> Settings:
        return DEFAULTS

    def checked(self, settings: Settings) -> Settings:
        if settings.method_name != "sam3":
            raise SettingError(
                f"method={settings.method!r}, and the model is a SAM 3, which has the method sam3 alone, with the "
                f"options {', '.join(option.name for option in Sam3.options())}."
            )
        if settings.background:
            raise SettingError(
                "background=True adds words for CLIP to compete with, and SAM 3 asks each word by itself; expected "
                "threshold=0.4, which leaves the rest unlabelled, or the label 'background'."
            )
        for name, value in vars(DEFAULTS).items():
            if name not in FREE and getattr(settings, name) != value:
                raise SettingError(
                    f"{name}={getattr(settings, name)!r}, which SAM 3 does not have; expected {value!r}."
                )
        for step in settings.make_steps():
            if isinstance(step, Present) and step.null is not None:
                raise SettingError("present names a null; SAM 3 has a presence head of its own: present=0.5 is enough.")
            if step.on == "patches" and step.needs_features:
                raise SettingError(
                    f"the step {step.called()} looks at patches, which SAM 3 does not have; expected steps on pixels "
                    "or labels, such as pamr or threshold(0.4)."
                )
        return settings

    @torch.inference_mode()
    def answers(self) -> list[list[float]]:
        with without_autocast(self.encoder.device):
            tokens, mask = self._tokens(("cat", "a dog", "blue sky"))
            return [row.float().flatten()[:64].tolist() for row in self._embedded(tokens, mask)]

    def identity(self, settings: Settings, vocabulary: Vocabulary) -> str:
        ids = self._tokens(vocabulary.names)[0].tolist()
        words = [vocabulary.identity(), fingerprint([self.encoder.mean, self.encoder.std])]
        return hashlib.sha256(json.dumps([self.weights(), settings.identity(), *words, ids]).encode()).hexdigest()

    def null_for(self, settings: Settings) -> Presence | None:
        return None

    def words(self, vocabulary: Vocabulary, settings: Settings, text: Tensor | None = None) -> Words:
        """The names of a question; they have no embeddings, since the detector reads their tokens.

        Raises:
            LabelError: a class is a vector, or was taught by pictures.
        """
        if vocabulary.vectors or vocabulary.constants:
            raise LabelError("a class is a vector, or was taught by pictures; SAM 3 takes words only.")
        missing: Any = Missing()
        self._tokens(vocabulary.names)
        return Words(vocabulary, missing, settings.templates, settings.logit_scale, missing)

    def beside(self) -> Beside:
        encoder, refuse = self.encoder, cast(Any, Missing())
        identity = cache(self.model_identity)
        return Beside(
            (1, 1), encoder.device, encoder.dtype, encoder.mean, encoder.std, identity, refuse, encoder.limits
        )

    @torch.inference_mode()
    def encoded(
        self, prepared: Iterable[Any], settings: Settings, dtype: torch.dtype, text: Tensor | None = None
    ) -> Iterator[Look | PictureError]:
        """The feature levels of each window in ``dtype``, with one set of position encodings."""
        for picture in prepared:
            if isinstance(picture, PictureError):
                yield picture
                continue
            look, levels = self._look(picture, settings), []
            with without_autocast(self.encoder.device):
                for features, positions in self.looking.views(look):
                    levels.append([level.to(dtype) for level in features])
                    look.looked = {f"{POSITIONS} {i}": level for i, level in enumerate(positions)}
            for i, windows in enumerate(zip(*levels, strict=True)):
                look.looked[f"{FEATURES} {i}"] = torch.cat(windows)
            yield look

    @torch.inference_mode()
    def segmented(
        self, prepared: Iterable[Any], vocabulary: Vocabulary, settings: Settings, smoothing: MovingMean | None = None
    ) -> Iterator[Segmentation | PictureError]:
        vocabulary = vocabulary.beside(settings.ignore)
        words, text = self.words(vocabulary, settings), self._text(vocabulary.names)
        for picture in prepared:
            if isinstance(picture, PictureError):
                yield picture
                continue
            look = self._look(picture, settings)
            with without_autocast(self.encoder.device):
                seen = [self._seen(*view, text, settings) for view in self.looking.views(look)]
            yield self._answer(look, words, settings, seen, smoothing)

    @torch.inference_mode()
    def asked(self, look: Look, words: Words, settings: Settings) -> Segmentation:
        text = self._text(words.vocabulary.names)
        if look.pixels is None and look.picture is not None:
            look = replace(self._look(Prepared(look.picture, to_tensor(look.picture), look.size), settings),
                           looked=look.looked)  # fmt: skip
        levels = [look.looked[name].to(self.encoder.dtype) for name in look.looked if name.startswith(FEATURES)]
        positions = [look.looked[name] for name in look.looked if name.startswith(POSITIONS)]
        with without_autocast(self.encoder.device):
            seen = [
                self._seen([level[i : i + 1] for level in levels], positions, text, settings)
                for i in range(len(look.plan))
            ]
        return self._answer(look, words, settings, seen, None)

    def unit_features(self, pictures: Iterable[Any], settings: Settings) -> NoReturn:
        raise UnsupportedModelError(NO_FEATURES)

    def raw_features(self, prepared: Iterable[Any], settings: Settings) -> NoReturn:
        raise UnsupportedModelError(NO_FEATURES)

    def _look(self, prepared: Prepared, settings: Settings) -> Look:
        pixels, missing = prepared.pixels, cast(Any, Missing())
        plan = self.looking.plan((pixels.shape[-2], pixels.shape[-1]), settings)
        plan.check_cost(prepared.size)
        return Look(
            picture=prepared.picture, pixels=pixels, size=prepared.size, plan=plan, vectors=missing, windows=missing,
            image=missing,
        )  # fmt: skip

    def _tokens(self, names: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids (K, 32) of names and their mask. Always 32: Sam3LiteText's answers depend on the padding.

        Raises:
            LabelError: a name has no tokens.
        """
        empty, ids, masks = len(self.tokenizer("")["input_ids"]), [], []
        for name in names:
            length = len(self.tokenizer(name)["input_ids"])
            if length <= empty:
                raise LabelError(f"the name {name!r} has no tokens; expected a word or a short phrase.")
            if length > TOKENS:
                warnings.warn(f"{name!r} has {length} tokens; SAM 3 reads the first {TOKENS}.", stacklevel=2)
            said = self.tokenizer(name, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt")
            ids.append(said["input_ids"])
            masks.append(said["attention_mask"])
        return torch.cat(ids), torch.cat(masks)

    def _embedded(self, ids: Tensor, mask: Tensor) -> Tensor:
        """(K, 32, D)."""
        model, device = cast(Any, self.model), self.encoder.device
        return torch.cat(
            [
                model.get_text_features(input_ids=some.to(device), attention_mask=valid.to(device)).pooler_output
                for some, valid in zip(ids.split(64), mask.split(64), strict=True)
            ]
        )

    def _text(self, names: Sequence[str]) -> tuple[Tensor, Tensor]:
        ids, mask = self._tokens(names)
        with without_autocast(self.encoder.device):
            return self._embedded(ids, mask), mask.to(self.encoder.device)

    def _seen(
        self, features: list[Tensor], positions: list[Tensor], text: tuple[Tensor, Tensor], settings: Settings
    ) -> list[WordSeen]:
        """What the detector says of each word in one window; the window is expanded over a few words at a time."""
        method, found = cast(Sam3, settings.make_method()), []
        for words, valid in zip(*(values.split(WORDS_AT_ONCE) for values in text), strict=True):
            expanded = [tuple(level.expand(len(words), -1, -1, -1) for level in of) for of in (features, positions)]
            out = cast(Any, self.model)(
                vision_embeds=SimpleNamespace(
                    fpn_hidden_states=expanded[0],
                    fpn_position_encoding=expanded[1],
                    hidden_states=None,
                    attentions=None,
                ),
                text_embeds=SimpleNamespace(pooler_output=words),
                attention_mask=valid,
            )
            heads = (out.pred_logits, out.presence_logits[:, 0], out.pred_masks, out.semantic_seg[:, 0])
            found += [method.seen(*of_word) for of_word in zip(*heads, strict=True)]
        return found

    def _answer(
        self,
        look: Look,
        words: Words,
        settings: Settings,
        seen: list[list[WordSeen]],
        smoothing: MovingMean | None,
    ) -> Segmentation:
        # A patch of the vision encoder is a quarter of the masks' grid wide: what specks and others measure in.
        patch = tuple(
            max(1, 4 * side // cells) for side, cells in zip(look.plan.window, look.plan.patches, strict=True)
        )
        question = Question(look, words, settings, replace(self.beside(), patch_size=cast(Any, patch)))
        maps = FusedMaps(cast(Sam3, settings.make_method()), look.plan, seen)
        whole = TiledMap(cast(Any, maps), limits=self.encoder.limits)
        presence = {label: 0.0 for label in words.labels}
        for of_window in seen:
            for word, index in zip(of_window, words.class_of_name, strict=True):
                presence[words.labels[index]] = max(presence[words.labels[index]], float(word.presence))
        if smoothing is not None and smoothing.share:
            # A mean over frames is kept at the grid of the detector's masks.
            values = smoothing(whole.resized(look.plan.patches).full())
            whole = TiledMap(values, limits=self.encoder.limits)
            means = smoothing(torch.tensor(list(presence.values())), "presence").tolist()
            presence = dict(zip(presence, means, strict=True))
        step = next((step for step in settings.make_steps() if isinstance(step, Present)), None)
        absent = frozenset[int]() if step is None else step.absent(presence, words.labels)
        at: Callable[[tuple[int, int]], TiledMap] = lambda size: whole.resized(size)  # noqa: E731
        result = finished(question, at, "probability", presence, absent, Sam3Segmentation)
        if isinstance(result, Sam3Segmentation) and look.size == look.plan.size:
            result.maps, result.vocabulary = maps.cpu(), words.vocabulary
        return result


def chain_of(model: nn.Module, *arguments: Any) -> Chain:
    """The chain of a model: a SAM 3's, or a CLIP's. Arguments as for `Chain.of`."""
    model = getattr(model, "detector_model", model)  # of a SAM 3 for video
    return (Sam3Chain if Sam3Chain.fits(model) else Chain).of(model, *arguments)
