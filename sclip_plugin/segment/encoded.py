"""A picture as the tower saw it, to be asked many times: labels, words, features, regions.

Nine tenths of what a question about a picture costs is the tower's work, which does not depend on the words.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from ..errors import FileFormatError, SettingError, ShapeError
from ..files import write_atomically
from ..settings import Settings
from ..text.labels import Labels
from .running import plan_of
from .windows import WindowPlan

if TYPE_CHECKING:
    from ..masks import MaskSource
    from .classify import Classified, View
    from .segmentation import Segmentation
    from .segmenter import Segmenter

HEADER = "sclip_plugin encoded 2"
FEATURE_SETTINGS = (
    "method",
    "method_options",
    "resize_short_side",
    "resize_long_side",
    "window",
    "stride",
    "remainder",
    "stitched",
    "image_engineering",
)
"""What decides the features; the rest is about words and decisions, and may differ from question to question."""


@dataclass
class Encoded:
    """The features of a picture's windows; `Segmenter.encode` makes it.

    Attributes:
        segmenter: whose model made it, and whose text tower is asked.
        settings: what it was made with; questions start from them.
        vectors: (gh, gw, D), the unit features of all windows' patches side by side, in half precision unless asked
            otherwise.
        plan: how the picture was cut.
        size: (height, width) of label maps and similarities.
        windows: (n, D), the unit image embedding of each window, as the model itself pools it.
        image: (D,), that of the whole picture, squashed to the model's native size: for searching and classifying.
        picture: the picture, RGB, for overlays and refinement; None where it is not known.
        pixels: (3, H, W) as the tower saw them, where the picture is not known.

    Example:
        >>> import sclip_plugin as sp
        >>> seg = sp.Segmenter.from_pretrained("demo")
        >>> scene = sp.draw_scene(seed=7)
        >>> encoded = seg.encode(scene.picture)
        >>> first, second = encoded.segment(scene.labels), encoded.segment(["cat", "grass"])
        >>> encoded.similarity("cat").shape == first.label_map.shape
        True
    """

    segmenter: Segmenter = field(repr=False)
    settings: Settings
    vectors: Tensor = field(repr=False)
    plan: WindowPlan = field(repr=False)
    size: tuple[int, int]
    windows: Tensor = field(repr=False)
    image: Tensor = field(repr=False)
    picture: Image.Image | None = field(default=None, repr=False)
    pixels: Tensor | None = field(default=None, repr=False)

    def segment(self, labels: Labels | None = None, settings: Settings | None = None, **changes: Any) -> Segmentation:
        """A segmentation by these labels, as `Segmenter` gives it.

        Args:
            labels: as for a segmenter's call.
            settings: in place of those that the picture was encoded with.
            **changes: settings that differ. What decides the features (method, window, stride, size) can't be changed.

        Raises:
            SettingError: a setting that decides the features, or refinement of a picture that is not known.
            LabelError: as for a segmenter's call.
        """
        chosen = self._chosen(settings, changes)
        return self.segmenter._answer(self, labels, chosen)

    def similarity(self, words: str | Sequence[str] | Mapping[str, Any], **changes: Any) -> np.ndarray:
        """How alike each pixel and each word are.

        Args:
            words: one word, for (H, W); a list of them, or a dict of names to vectors, for (n, H, W).
            **changes: ``templates``.

        Returns:
            Cosines, float32.
        """
        asked = {words: [words]} if isinstance(words, str) else words
        chosen = self._chosen(None, changes)
        vocabulary, text = self.segmenter.text_embeddings(asked, chosen)
        if len(vocabulary.names) != len(vocabulary.labels):
            of_class = torch.tensor(vocabulary.class_of_name)
            text = torch.stack([text[of_class == i].mean(dim=0) for i in range(len(vocabulary.labels))])
        with torch.inference_mode():
            cosines = self.plan.stitched(self._cosines(text), self.size).full()
        maps = cosines.permute(2, 0, 1).contiguous().cpu().numpy()
        return maps[0] if isinstance(words, str) else maps

    def features(self) -> Tensor:
        """The features of the whole picture on its patch grid, windows averaged: (D, h, w) float32."""
        patch = self.segmenter.tower.patch_size
        grid = tuple(max(1, side // length) for side, length in zip(self.plan.size, patch, strict=True))
        with torch.inference_mode():
            whole = self.plan.stitched(self.vectors.float(), grid).full()  # type: ignore[arg-type]
        return whole.permute(2, 0, 1).contiguous()

    def classify(
        self,
        masks: np.ndarray | str | MaskSource,
        labels: Labels | None = None,
        *,
        view: View = "none",
        weight: float = 0.5,
        **changes: Any,
    ) -> Classified:
        """Words for masks that are there already: of SAM, a detector, an annotator.

        Args:
            masks: an id map (H, W) or masks (R, H, W) of the picture's size, or a source of masks; see
                `sclip_plugin.masks.MaskSource`.
            labels: as for a segmenter's call.
            view: what CLIP's own image embedding sees of a mask beside the mean dense feature in it: ``"none"``,
                ``"crop"`` (its box), ``"cut"`` (its box, the rest in the mean colour) or ``"blur"`` (the picture,
                blurred around the mask).
            weight: of the view's cosines, from 0 to 1; the dense feature's have the rest.
            **changes: settings of words and decisions, as for `segment`.

        Returns:
            A `Classified`: a label and scores for each mask.

        Raises:
            ShapeError: masks of another size or type.
            SettingError: a view of a picture that is not known.

        Source: the views are OVSeg's (arXiv 2210.04150) and fine-grained visual prompting's (arXiv 2306.04356).

        Example:
            >>> import sclip_plugin as sp
            >>> from sclip_plugin.masks import masks_of, find_masks
            >>> scene = sp.draw_scene(seed=7)
            >>> encoded = sp.Segmenter.from_pretrained("demo").encode(scene.picture)
            >>> named = encoded.classify(scene.label_map + 1, scene.labels)
            >>> len(named.labels_of_masks) == len(scene.labels)
            True
        """
        from .classify import classify

        return classify(self, masks, labels, view, weight, self._chosen(None, changes))

    def vector_of(self, mask: np.ndarray | Tensor) -> Tensor:
        """The mean feature of a region, to be used as a class vector: ``labels={"this": encoded.vector_of(mask)}``.

        Args:
            mask: (H, W) of the picture's size, bool or weights from 0 on.

        Returns:
            (D,) of unit length, float32.

        Raises:
            ShapeError: a mask of another size, or one that covers nothing.
        """
        weights = torch.as_tensor(np.asarray(mask)).to(self.vectors.device, torch.float32)
        if tuple(weights.shape) != tuple(self.size):
            raise ShapeError(f"the mask has shape {tuple(weights.shape)}; expected {self.size}, the picture's.")
        if not bool((weights > 0).any()) or bool((weights < 0).any()):
            raise ShapeError("the mask covers nothing, or has negative weights; expected True where the region is.")
        features = self.features()
        covered = F.interpolate(weights[None, None], size=features.shape[1:], mode="area")[0, 0]
        return F.normalize((features * covered).sum(dim=(1, 2)), dim=0)

    def save(self, path: str | Path) -> None:
        """Write the features as a safetensors file, with what they were made with. The picture is not in it.

        Raises:
            SettingError: made with a method or an outside model in hand, which a file can't name.
        """
        settings = {f.name: getattr(self.settings, f.name) for f in dataclasses.fields(Settings)}
        settings["method_options"] = dict(self.settings.method_options)
        try:
            said = json.dumps({"identity": self._identity(), "size": self.size, "pixels": self.plan.size, **settings})
        except TypeError as error:
            raise SettingError(
                "an encoded picture can be written only where its settings are plain values, and these hold a model or "
                f"a method in hand ({error}); name the method, and an outside model by its name or folder."
            ) from error
        tensors = {name: getattr(self, name).cpu().contiguous() for name in ("vectors", "windows", "image")}
        write_atomically(path, save(tensors, {HEADER: said}))

    @classmethod
    def load(cls, path: str | Path, segmenter: Segmenter, picture: Any = None) -> Encoded:
        """What `save` wrote, for the model that made it.

        Args:
            path: the file.
            segmenter: with the same weights.
            picture: the picture, for overlays and refinement.

        Raises:
            FileFormatError: not such a file, or of another model.
        """
        from ..imaging.pictures import read_picture

        try:
            with safe_open(path, framework="pt") as file:
                said = json.loads((file.metadata() or {})[HEADER])
                tensors = {name: file.get_tensor(name) for name in ("vectors", "windows", "image")}
            identity, size, pixels = said.pop("identity"), tuple(said.pop("size")), tuple(said.pop("pixels"))
            settings = Settings(**said)
            plan = plan_of(pixels, settings, segmenter.tower.patch_size, settings.running_method())
            plan = plan.with_patches(_patches(plan, tensors))
        except FileNotFoundError:
            raise
        except Exception as error:  # whatever a broken or foreign file makes of the readers
            raise FileFormatError(f"{path} is no encoded picture, as Encoded.save writes it: {error}") from error
        tensors = {name: tensor.to(segmenter.device) for name, tensor in tensors.items()}
        encoded = cls(segmenter, settings, plan=plan, size=size, **tensors)
        if encoded._identity() != identity:
            raise FileFormatError(
                f"{path} was encoded with other weights, another normalisation or another method than this segmenter "
                "has; encode the picture again."
            )
        encoded.picture = None if picture is None else read_picture(picture)
        return encoded

    def _decides(self) -> tuple[str, ...]:
        return FEATURE_SETTINGS + (("masks",) if self.settings.make_method().sees_masks else ())

    def _identity(self) -> str:
        plain = Settings().changed(**{name: getattr(self.settings, name) for name in self._decides()})
        return self.segmenter.identity(["-"], plain)

    def _chosen(self, settings: Settings | None, changes: dict[str, Any]) -> Settings:
        chosen = (settings or self.settings).changed(**changes)
        for name in self._decides():
            ours, asked = getattr(self.settings, name), getattr(chosen, name)
            if name == "stride":
                ours, asked = self.settings.window_stride, chosen.window_stride
            if ours != asked:
                raise SettingError(
                    f"{name}={asked!r}, but the picture was encoded with {ours!r}, on which its features depend; "
                    "encode it again, or leave the setting as it is."
                )
        return chosen

    def _cosines(self, text: Tensor) -> Tensor:
        """(gh, gw, D) and (K, D) to (gh, gw, K)."""
        return self.vectors.float() @ text.to(self.vectors.device).T


def _patches(plan: WindowPlan, tensors: dict[str, Tensor]) -> tuple[int, int]:
    """The grid of a window, from the features of all of them.

    Raises:
        ShapeError: the tensors do not fit the plan, or hold what is no number.
    """
    height, width, channels = tensors["vectors"].shape
    rows, columns = len(plan.rows), len(plan.columns)
    fits = tensors["windows"].shape == (len(plan), channels) and tensors["image"].shape == (channels,)
    if height % rows or width % columns or not fits:
        raise ShapeError(f"its tensors do not belong to {len(plan)} windows: {[t.shape for t in tensors.values()]}")
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise ShapeError("its features are not numbers")
    return height // rows, width // columns
