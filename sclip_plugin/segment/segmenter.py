"""`Segmenter`: words and a picture in, masks out. A facade over the chain (`chain`, `encoding`, `answering`)."""

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
from ..steps import Presence
from ..text.labels import Labels, Vocabulary, parse_labels
from .encoded import Encoded
from .encoding import Prepared
from .naming import NamesThings
from .regions import warn_of_unused_masks
from .sam3 import chain_of
from .segmentation import Segmentation
from .smoothing import MovingMean

OnError = Literal["raise", "return", "skip"]


class Segmenter(NamesThings):
    """Segments pictures into any classes named in words, with a frozen CLIP, or with SAM 3.

    Args:
        model: a whole CLIP of transformers, open_clip or OpenAI, or a ``Sam3Model``. It is put into eval mode.
        tokenizer: of transformers, of ``open_clip.get_tokenizer``, ``clip.tokenize``, or a SAM 3's ``Sam3Processor``.
        image_mean, image_std: normalisation of pictures with values 0 to 1; None: CLIP's, of TIPSv2 none.
        preset: settings and labels of a published evaluation, ``"sclip/voc21"``; see `sclip_plugin.protocols.presets`.
        settings: all settings; None: the preset's. Without either, the window is the model's native size, the stride
            half of it, and the short side 1.5 times it.
        cache_dir: cache folder of the text bank; None: the user's cache folder, False: no cache.
        budget: batch and tile sizes, a `sclip_plugin.device.Budget`; None: the device's.
        paths: False refuses texts and paths as pictures, so that a server opens no file that a visitor names.
        presence: the model's null or its file: words that are absent paint nothing, see `sclip_plugin.steps.Present`.
        **changes: arguments of `Settings.changed`: fields, short forms, and options of the method.

    Raises:
        UnsupportedModelError: the structure of the image or the text tower is unknown.
        UnknownNameError, SettingError: a preset, method or setting does not exist; a setting is out of range.

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
        presence: Presence | str | Path | None = None,
        **changes: Any,
    ) -> None:
        self.chain = chain_of(model, tokenizer, image_mean, image_std, cache_dir, budget, presence)
        self.paths = paths
        self._preset_labels: dict[str, tuple[str, ...]] | None = None
        defaults = self.chain.defaults()
        if preset is not None:
            loaded, shown = load_preset(preset), load_benchmark(preset.partition("/")[2]).class_names
            defaults, self._preset_labels = loaded.settings, dict(zip(shown, loaded.classes, strict=True))
        self.settings = self.chosen(defaults if settings is None else settings, changes)

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
            device: device of the model; None: CUDA if available, else the CPU.
            dtype: precision of the weights, a ``torch.dtype`` or its name; None: float32. ``"auto"``: half precision
                if it is faster (float16 on CUDA, bfloat16 on processors with AMX).
            **arguments: arguments of `Segmenter`.

        Raises:
            ModelLoadError: the weights can't be loaded; the message tells what works instead.
            UnknownNameError: the dtype does not exist.
        """
        from ..loading import load_model

        loaded = load_model(name, device=device, dtype=dtype)
        return cls(loaded.model, loaded.tokenizer, **{**loaded.beside(), **arguments})

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The classes of the preset, used by calls without labels; None without a preset."""
        return None if self._preset_labels is None else parse_labels(self._preset_labels, self.settings.background)

    def identity(self, labels: Labels | None = None, settings: Settings | None = None, **changes: Any) -> str:
        """A hash of all that a result depends on beside the picture; arguments as for a call."""
        return self.identity_by(labels, self.chosen(settings, changes))

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
            picture: a path, an open file, a PIL picture, an array (H, W, 3), a tensor (3, H, W), or a `Prepared`; or a
                list of those.
            labels: names; a list inside names synonyms of one class; a dict maps a label to its synonyms. None: the
                preset's. ``"@auto"``: what `names` finds in each picture.
            settings: settings of this call, in place of the segmenter's own.
            on_error: for unreadable pictures in a list: ``"raise"`` ends the call, ``"return"`` gives the
                `PictureError` in place of the result, ``"skip"`` leaves the picture out.
            **changes: arguments of `Settings.changed` for this call: ``method="naclip(std=4)"``, ``threshold=0.4``.

        Returns:
            A `Segmentation`, or a list of them in the order of the pictures.

        Raises:
            LabelError: labels are missing, empty, or given twice.
            PictureError, FileNotFoundError: a picture can't be read.
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
        """Yield the segmentation of each picture, in order; windows of several pictures share batches.

        Arguments as for a call, but ``pictures`` may be any iterable, even an endless one. It is read up to 16 pictures
        ahead, as many as fill a batch on the device.

        ``smoothing`` is for frames of one camera: the weight s of earlier frames, from 0 (off) to below 1. Labels are
        decided on m = s m' + (1 - s) x: x are the frame's scores after its steps on patches, m' is the m of the frame
        before. A frame of another size restarts the mean.
        """
        chosen = self.chosen(settings, changes)
        if on_error not in get_args(OnError):
            raise SettingError(f"on_error={on_error!r}; expected {' or '.join(map(repr, get_args(OnError)))}.")
        warn_of_unused_masks(chosen)
        prepared = self.chain.prepared(pictures, chosen, on_error, self.paths)
        return self.segmented(prepared, labels, chosen, MovingMean(smoothing))

    def prepare(self, picture: Picture, settings: Settings | None = None, **changes: Any) -> Prepared:
        """Read and resize a picture: the part of a call before the model. A worker process may do it."""
        chosen = self.chosen(settings, changes)
        return self.encoder.prepare(picture, chosen, torch.device("cpu"), self.paths)

    def encode(
        self, picture: Any, settings: Settings | None = None, *, dtype: torch.dtype = torch.float16, **changes: Any
    ) -> Any:
        """Encode pictures once, to ask about them many times.

        Args:
            picture: a picture as for a call, a list of them, or any other iterable.
            settings, changes: as for a call.
            dtype: precision of the kept features. In half precision a few pixels of a label map may differ from those
                of a call; in ``torch.float32`` none does.

        Returns:
            An `Encoded`; for a list, a list; for another iterable, a lazy iterator.

        Raises:
            SettingError: the method's features depend on the words.
            PictureError: a picture can't be read.
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
        """Mean feature of a region, (D,), to segment by example: ``labels={"this": seg.vector_of(picture, mask)}``.

        Arguments as for `encode` and `Encoded.vector_of`.
        """
        return self.encode(picture, **changes).vector_of(mask)

    def text_embeddings(
        self, labels: Labels | None = None, settings: Settings | None = None, **changes: Any
    ) -> tuple[Vocabulary, Tensor]:
        """The classes and names of labels, and the names' unit embeddings (K, D) float32."""
        chosen = self.chosen(settings, changes)
        vocabulary = self.vocabulary_of(labels, chosen)
        return vocabulary, self.chain.words(vocabulary, chosen).text

    def vocabulary_of(self, labels: Labels | None, settings: Settings) -> Vocabulary:
        """The classes of a question: the labels given, or the preset's.

        Raises:
            LabelError: there are no labels.
        """
        labels = self._preset_labels if labels is None else labels
        if labels is None:
            raise LabelError("no labels were given; expected a list of names such as ['cat', 'dog'], or a preset.")
        return self.as_taught(parse_labels(labels, settings.background))

    def chosen(self, settings: Settings | None, changes: dict[str, Any]) -> Settings:
        """The settings of a call: the given ones, or the segmenter's own, with changes."""
        if settings is not None and not isinstance(settings, Settings):
            raise ArgumentTypeError(f"settings is a {type(settings).__name__}; expected sclip_plugin.Settings(...).")
        return self.chain.checked((self.settings if settings is None else settings).changed(**changes))
