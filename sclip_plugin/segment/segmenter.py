"""Words and a picture in, masks out: the segmenter, in front of what looks (`encoding`) and what answers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..device import Budget
from ..errors import ArgumentTypeError, LabelError, SettingError
from ..imaging.pictures import Picture
from ..protocols import load_benchmark, load_preset
from ..settings import Settings
from ..text.labels import Labels, Vocabulary, parse_labels
from .chain import Chain, OfModel
from .encoded import Encoded
from .encoding import Prepared
from .regions import warn_of_unused_masks
from .segmentation import Segmentation
from .smoothing import MovingMean

OnError = Literal["raise", "return", "skip"]


class Segmenter(OfModel):
    """Segments pictures into any classes named in words, with a frozen CLIP.

    Args:
        model: a whole CLIP of transformers or open_clip, or OpenAI's; put into eval mode, otherwise left as it is.
        tokenizer: the model's: of transformers, of ``open_clip.get_tokenizer``, or ``clip.tokenize``.
        image_mean, image_std: of the model's pictures, for values 0 to 1; CLIP's where None.
        preset: settings and labels as the authors evaluate a benchmark, ``"sclip/voc21"``; see
            `sclip_plugin.protocols.presets`.
        settings: all settings; the preset's where None. Without either, windows have the model's native size, the
            stride is half of it, and the short side one and a half of it.
        cache_dir: of the text bank; None for the user's cache folder, False for none.
        budget: batch and tile sizes, see `sclip_plugin.device.Budget`; what suits the device where None.
        paths: False refuses text and paths as pictures, so that a server opens no file that a visitor names.
        **changes: what `Settings.changed` takes: fields, short forms, and options of the method.

    Raises:
        UnsupportedModelError: the structure of the image or the text tower is not known.
        UnknownNameError, SettingError: no such preset or setting, or a value out of range.

    Source: SCLIP, arXiv 2312.01597, for the protocol and the default method.

    Example:
        >>> import sclip_plugin as sp
        >>> scene = sp.draw_scene(seed=7)
        >>> seg = sp.Segmenter.from_pretrained("demo")
        >>> result = seg(scene.picture, list(scene.labels), method="clearclip")
        >>> bool((result.label_map == scene.label_map).mean() > 0.8)
        True
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        *,
        image_mean: Sequence[float] | None = None,
        image_std: Sequence[float] | None = None,
        preset: str | None = None,
        settings: Settings | None = None,
        cache_dir: str | Path | None | bool = None,
        budget: Budget | None = None,
        paths: bool = True,
        **changes: Any,
    ) -> None:
        self.chain = Chain.of(
            model, tokenizer, image_mean=image_mean, image_std=image_std, cache_dir=cache_dir, budget=budget
        )
        self.paths = paths
        self._preset_labels: dict[str, tuple[str, ...]] | None = None
        native = self.tower.native_grid[0] * self.tower.patch_size[0]
        defaults = Settings(resize_short_side=native * 3 // 2, window=native)
        if preset is not None:
            loaded, shown = load_preset(preset), load_benchmark(preset.partition("/")[2]).class_names
            defaults, self._preset_labels = loaded.settings, dict(zip(shown, loaded.classes, strict=True))
        self.settings = defaults
        self.settings = self.chosen(settings, changes)

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | str | None = None,
        **arguments: Any,
    ) -> Segmenter:
        """A segmenter for a model by name.

        Args:
            name: a hub id or folder of transformers; ``"open_clip:ARCH/PRETRAINED"`` or ``"open_clip:ARCH@FILE"``;
                ``"timm:NAME"`` with its matching text tower from open_clip; ``"demo"``, which ships with the package.
            device: where it runs; CUDA where there is one, else the CPU.
            dtype: of the weights, a ``torch.dtype`` or its name; float32 where None. ``"auto"``: half precision where
                it is faster (float16 on CUDA, bfloat16 on processors with AMX).
            **arguments: of `Segmenter`.

        Raises:
            ModelLoadError: the weights can't be had; the message says what works instead.
        """
        from ..loading import load_model

        loaded = load_model(name, device=device, dtype=dtype)
        return cls(loaded.model, loaded.tokenizer, **{**loaded.statistics(), **arguments})

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The classes of the preset, which are asked for where a call names none; None without a preset."""
        return None if self._preset_labels is None else parse_labels(self._preset_labels, self.settings.background)

    def identity(self, labels: Labels | None = None, settings: Settings | None = None, **changes: Any) -> str:
        """A hash of all that a result depends on beside the picture; arguments as for a call."""
        chosen = self.chosen(settings, changes)
        return self.chain.identity(chosen, self.vocabulary_of(labels, chosen))

    def __call__(
        self,
        picture: Any,
        labels: Any = None,
        settings: Settings | None = None,
        *,
        on_error: OnError = "raise",
        **changes: Any,
    ) -> Any:
        """Segment one picture, or a list of them.

        Args:
            picture: a path, an open file, a PIL picture, an array (H, W, 3), a tensor (3, H, W), or what `prepare`
                gave; or a list of those.
            labels: names; a list in the list names synonyms of one class; a dict maps a label to its synonyms. None for
                the preset's.
            settings: for this call, in place of the segmenter's own.
            on_error: of a list, what becomes of a picture that can't be read: ``"raise"`` ends the call, ``"return"``
                gives the `PictureError` in the place of its result, ``"skip"`` leaves it out.
            **changes: what `Settings.changed` takes, for this call: ``method="naclip(std=4)"``, ``threshold=0.4``.

        Returns:
            A `Segmentation`, or a list of them in the order of the pictures.

        Raises:
            LabelError: no labels, empty ones, or one twice.
            PictureError, FileNotFoundError: a picture that can't be read.
        """
        if isinstance(picture, (list, tuple)):
            return list(self.stream(picture, labels, settings, on_error=on_error, **changes))
        return next(self.stream([picture], labels, settings, **changes))

    def stream(
        self,
        pictures: Iterable[Picture | Prepared],
        labels: Labels | None = None,
        settings: Settings | None = None,
        *,
        on_error: OnError = "raise",
        smoothing: float = 0.0,
        **changes: Any,
    ) -> Iterator[Segmentation]:
        """Segment pictures one after the other as they are needed; windows of several share batches.

        Arguments as for a call, but ``pictures`` may be any iterable, even an endless one. Up to 16 pictures are read
        ahead of the one that is given, as many as fill a batch on the device.

        ``smoothing``, for frames of one camera, is the share s of the frames before, from 0 (off) to below 1: labels
        are decided on m = s m' + (1 - s) x, where x are a frame's scores after its steps on patches, and m' the frame
        before's m. A frame of another size starts anew.
        """
        chosen, mean = self.chosen(settings, changes), MovingMean(smoothing)
        vocabulary = self.vocabulary_of(labels, chosen)
        if on_error not in get_args(OnError):
            raise SettingError(f"on_error={on_error!r}; expected {' or '.join(map(repr, get_args(OnError)))}.")
        warn_of_unused_masks(chosen)
        prepared = self.chain.prepared(pictures, chosen, on_error, self.paths)
        return self.chain.segmented(prepared, vocabulary, chosen, mean)  # type: ignore[return-value]

    def prepare(self, picture: Picture, settings: Settings | None = None, **changes: Any) -> Prepared:
        """The part of a call that comes before the model: read and resize. A worker process may do it."""
        chosen = self.chosen(settings, changes)
        return self.encoder.prepare(picture, chosen, torch.device("cpu"), self.paths)

    def encode(
        self, picture: Any, settings: Settings | None = None, *, dtype: torch.dtype = torch.float16, **changes: Any
    ) -> Any:
        """Look at pictures once, to ask about them many times.

        Args:
            picture: as for a call; a list of them, or any other iterable.
            settings, changes: as for a call.
            dtype: in which the features are kept. In half precision a few pixels of a label map may differ from those
                of a call; in ``torch.float32`` none does.

        Returns:
            An `Encoded`; a list of them for a list; for another iterable an iterator, which reads as it is asked.

        Raises:
            SettingError: the method's features depend on the words.
            PictureError: a picture that can't be read.
        """
        kinds = (str, os.PathLike, Image.Image, np.ndarray, Tensor, Prepared)
        one, chosen = isinstance(picture, kinds) or hasattr(picture, "read"), self.chosen(settings, changes)
        if chosen.make_method().needs_text:
            raise SettingError(
                f"the features of {chosen.method} depend on the words, so a picture can't be encoded before they are "
                "known. Segment it directly; for resclip, sfr=None works too."
            )
        prepared = self.chain.prepared([picture] if one else picture, chosen, "raise", self.paths)
        encoded = (Encoded.of(self, chosen, look) for look in self.chain.encoded(prepared, chosen, dtype))
        return next(encoded) if one else list(encoded) if isinstance(picture, (list, tuple)) else encoded

    def vector_of(self, picture: Picture, mask: np.ndarray | Tensor, **changes: Any) -> Tensor:
        """The mean feature of a region, (D,), to segment by example: ``labels={"this": seg.vector_of(picture, mask)}``.

        Arguments as for `encode` and `Encoded.vector_of`.
        """
        return self.encode(picture, **changes).vector_of(mask)

    def text_embeddings(
        self, labels: Labels | None = None, settings: Settings | None = None, **changes: Any
    ) -> tuple[Vocabulary, Tensor]:
        """The classes and names of labels, and the names' unit embeddings (K, D) float32."""
        chosen = self.chosen(settings, changes)
        vocabulary = self.vocabulary_of(labels, chosen)
        return vocabulary, self.text_bank.embed_vocabulary(vocabulary, chosen.templates)

    def vocabulary_of(self, labels: Labels | None, settings: Settings) -> Vocabulary:
        """The classes of a question: the labels given, or the preset's.

        Raises:
            LabelError: there are none.
        """
        labels = self._preset_labels if labels is None else labels
        if labels is None:
            raise LabelError("no labels were given; expected a list of names such as ['cat', 'dog'], or a preset.")
        return parse_labels(labels, settings.background)

    def chosen(self, settings: Settings | None, changes: dict[str, Any]) -> Settings:
        """The settings of a call: those given, or the segmenter's own, with changes."""
        if settings is not None and not isinstance(settings, Settings):
            raise ArgumentTypeError(f"settings is a {type(settings).__name__}; expected sclip_plugin.Settings(...).")
        return (self.settings if settings is None else settings).changed(**changes)
