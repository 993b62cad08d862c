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
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from ..errors import FileFormatError, PictureError, SettingError, ShapeError
from ..settings import Settings
from ..storage.files import write_atomically
from ..text.labels import Labels
from .encoding import Look, plan_of
from .windows import WindowPlan

if TYPE_CHECKING:
    from ..masks import MaskSource
    from .classify import Classified, View
    from .segmentation import Segmentation
    from .segmenter import Segmenter

HEADER = "sclip_plugin encoded 3"


@dataclass(eq=False, kw_only=True)
class Encoded(Look):
    """An encoded picture: the features of its windows. `Segmenter.encode` makes it.

    Attributes:
        segmenter: the segmenter that made it; its text tower embeds the words.
        settings: the settings of the encoding, and the defaults of questions.
        vectors: (gh, gw, D), unit features of all windows' patches side by side, in half precision by default.
        plan: the windows of the picture.
        size: (height, width) of label maps and similarities in pixels.
        windows: (n, D), unit image embedding of each window, as the model itself pools it.
        image: (D,), unit image embedding of the whole picture, resized to the model's native size.
        picture: the picture, RGB, for overlays and steps; None if unknown.
        pixels: (3, H, W), the resized picture, if the picture is unknown.
        looked: results of `Step.look`.

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
    windows: Tensor = field(repr=False)
    image: Tensor = field(repr=False)

    @classmethod
    def of(cls, segmenter: Segmenter, settings: Settings, look: Look | PictureError) -> Encoded:
        """A look of the segmenter's model."""
        assert isinstance(look, Look), "a picture that can't be read raises"
        known = {f.name: getattr(look, f.name) for f in dataclasses.fields(Look)}
        if look.picture is not None:
            known["pixels"] = None  # resized anew where a step wants them
        return cls(segmenter=segmenter, settings=settings, **known)

    def segment(self, labels: Labels | None = None, settings: Settings | None = None, **changes: Any) -> Segmentation:
        """Segment the picture by these labels, as `Segmenter` does.

        Args:
            labels: as for a segmenter's call.
            settings: settings in place of those of the encoding.
            **changes: settings that differ. Those that features depend on (method, window, stride, size) can't change.

        Raises:
            SettingError: a changed setting that features depend on, or a step that needs an unknown picture.
            LabelError: as for a segmenter's call.
        """
        return self.segmenter.asked(self, labels, self.chosen(settings, changes))

    def similarity(self, words: str | Sequence[str] | Mapping[str, Any], **changes: Any) -> np.ndarray:
        """Cosine similarity of each pixel and each word.

        Args:
            words: one word, for (H, W); a list of words, or a dict from names to vectors, for (n, H, W).
            **changes: ``templates``.

        Returns:
            Cosines, float32.
        """
        asked: Any = {words: [words]} if isinstance(words, str) else words
        chosen = self.chosen(None, changes)
        vocabulary, text = self.segmenter.text_embeddings(asked, chosen)
        if len(vocabulary.names) != len(vocabulary.labels):
            of_class = torch.tensor(vocabulary.class_of_name)
            text = torch.stack([text[of_class == i].mean(dim=0) for i in range(len(vocabulary.labels))])
        with torch.inference_mode():
            cosines = self.vectors.float() @ text.to(self.vectors.device).T
            if vocabulary.constants:
                cosines = cosines + cosines.new_tensor(vocabulary.constants)
            values = self.plan.stitched(cosines, self.size).full()
        maps = values.permute(2, 0, 1).contiguous().cpu().numpy()
        return maps[0] if isinstance(words, str) else maps

    def features(self) -> Tensor:
        """Features of the whole picture on its patch grid, overlapping windows averaged: (D, h, w) float32."""
        grid = self.plan.grid(self.segmenter.tower.patch_size)
        with torch.inference_mode():
            whole = self.plan.stitched(self.vectors.float(), grid).full()
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
        """Give words to existing masks: of SAM, a detector, an annotator.

        Args:
            masks: an id map (H, W) or masks (R, H, W) of the picture's size, or a source of masks; see
                `sclip_plugin.masks.MaskSource`.
            labels: as for a segmenter's call.
            view: image whose CLIP embedding is added to the mask's mean dense feature: ``"none"``, ``"crop"`` (the
                mask's box), ``"cut"`` (its box, the rest in the mean colour) or ``"blur"`` (the picture, blurred around
                the mask).
            weight: weight of the view's cosines, 0 to 1; the dense feature has the rest.
            **changes: settings of the answer, as for `segment`.

        Returns:
            A `Classified`: a label and scores for each mask.

        Raises:
            ShapeError: masks have another size or type.
            SettingError: a view of an unknown picture.

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

        return classify(self, masks, labels, view, weight, self.chosen(None, changes))

    def vector_of(self, mask: np.ndarray | Tensor) -> Tensor:
        """Mean feature of a region, for use as a class vector: ``labels={"this": encoded.vector_of(mask)}``.

        Args:
            mask: (H, W) of the picture's size, bool or non-negative weights.

        Returns:
            (D,) of unit length, float32.

        Raises:
            ShapeError: the mask has another size, or is empty.
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
        """Write the features and their settings as a safetensors file, without the picture.

        Raises:
            SettingError: the settings hold a method or model object, which a file can't name.
        """
        settings = {f.name: getattr(self.settings, f.name) for f in dataclasses.fields(Settings)}
        said = {"identity": self._identity(), "size": self.size, "pixels": self.plan.size, "settings": settings}
        try:
            header = json.dumps(said)
        except TypeError as error:
            raise SettingError(
                "an encoded picture can be written only where its settings are plain values, and these hold a part in "
                f"hand ({error}); name the method, and an outside model by its name or folder."
            ) from error
        tensors = {name: getattr(self, name).cpu().contiguous() for name in ("vectors", "windows", "image")}
        write_atomically(path, save(tensors, {HEADER: header}))

    @classmethod
    def load(cls, path: str | Path, segmenter: Segmenter, picture: Any = None) -> Encoded:
        """Read a file of `save`, for the model that made it.

        Args:
            path: the file.
            segmenter: a segmenter with the same weights.
            picture: the picture, for overlays and for steps that need it.

        Raises:
            FileFormatError: the file has another format, or another model made it.
        """
        from ..imaging.pictures import read_picture

        try:
            with safe_open(path, framework="pt") as file:
                said = json.loads((file.metadata() or {})[HEADER])
                tensors = {name: file.get_tensor(name) for name in ("vectors", "windows", "image")}
            identity, size, pixels = said["identity"], tuple(said["size"]), tuple(said["pixels"])
            settings = Settings(**said["settings"])
            plan = plan_of(pixels, settings, segmenter.tower.patch_size, settings.make_method())
            plan = plan.with_patches(_patches(plan, tensors))
        except FileNotFoundError:
            raise
        except Exception as error:  # whatever a broken or foreign file makes of the readers
            raise FileFormatError(f"{path} is no encoded picture, as Encoded.save writes it: {error}") from error
        tensors = {name: tensor.to(segmenter.device) for name, tensor in tensors.items()}
        encoded = cls(segmenter=segmenter, settings=settings, plan=plan, size=size, **tensors)
        if encoded._identity() != identity:
            raise FileFormatError(
                f"{path} was encoded with other weights, another normalisation or another method than this segmenter "
                "has; encode the picture again."
            )
        encoded.picture = None if picture is None else read_picture(picture)
        return encoded

    def _identity(self) -> str:
        return self.segmenter.model_identity() + self.settings.feature_identity()

    def chosen(self, settings: Settings | None, changes: dict[str, Any]) -> Settings:
        """The settings of a question; those that features depend on must equal the encoding's."""
        chosen = self.segmenter.chosen(settings or self.settings, changes)
        for name in self.settings.deciding_features():
            name = "window_stride" if name == "stride" else name
            ours, asked = getattr(self.settings, name), getattr(chosen, name)
            if ours != asked:
                raise SettingError(
                    f"{name}={asked!r}, but the picture was encoded with {ours!r}, on which its features depend; "
                    "encode it again, or leave the setting as it is."
                )
        return chosen


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
