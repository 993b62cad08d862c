"""The pipeline for the task ``zero-shot-segmentation``: a `Segmenter` in the form that transformers gives its own.

What goes in follows transformers' zero-shot-object-detection, what comes out its image-segmentation. `preprocess` reads
and resizes, in worker processes where ``num_workers`` asks for them; `_forward` runs the windows of a batch of pictures
through the tower; `postprocess` makes masks of the label map.

Whoever imports sclip_plugin and transformers.pipelines imports this module too, with or without a use for it. So it
imports the segmenter only when one is made.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Mapping
from dataclasses import replace
from itertools import groupby
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer
from transformers.pipelines import PIPELINE_REGISTRY, Pipeline

from sclip_plugin.defaults import DEFAULT_MODEL, PLAIN_MEAN, PLAIN_STD
from sclip_plugin.errors import LabelError, PictureError, SettingError

if TYPE_CHECKING:
    from sclip_plugin.imaging.pictures import Picture
    from sclip_plugin.segment.encoding import Prepared
    from sclip_plugin.segment.segmentation import Segmentation
    from sclip_plugin.settings import Settings

TASK = "zero-shot-segmentation"
REVISION = "57c2164"


class ZeroShotSegmentationPipeline(Pipeline):
    """Segments pictures into any classes named in words, with the CLIP that ``AutoModel`` loads.

    Args:
        model, tokenizer, image_processor, device, batch_size, num_workers: as for every pipeline of transformers. Of
            the image processor only the mean and the standard deviation are used. A batch is a number of pictures;
            their windows share passes through the tower.
        **parameters: any of a call's, as its defaults.

    Attributes:
        segmenter: the `sclip_plugin.Segmenter` that does the work; the model itself is not changed.

    Raises:
        UnsupportedModelError: the structure of the image tower is not known, or there is no text tower.
        UnknownNameError: no such parameter or method.

    Example:
        >>> import sclip_plugin
        >>> from transformers import pipeline
        >>> pipe = pipeline("zero-shot-segmentation", model=sclip_plugin.demo_model())
        >>> scene = sclip_plugin.draw_scene(seed=7)
        >>> found = pipe(scene.picture, candidate_labels=list(scene.labels))
        >>> {entry["label"] for entry in found} <= set(scene.labels)
        True
    """

    # What of a checkpoint transformers shall load beside the model.
    _load_processor = False  # type: ignore[assignment]
    _load_image_processor = True  # type: ignore[assignment]
    _load_feature_extractor = False  # type: ignore[assignment]
    _load_tokenizer = True  # type: ignore[assignment]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.pop("local_files_only", None)  # meant for the hub; transformers 5 hands it on
        super().__init__(*args, **kwargs)
        from sclip_plugin.loading import presence_in
        from sclip_plugin.segment.segmenter import Segmenter

        # transformers does not find them for every family that it has a tokenizer for (4.48: not for AltCLIP).
        self.tokenizer = self.tokenizer or _beside(self.model, AutoTokenizer)
        self.image_processor = self.image_processor or _beside(self.model, AutoImageProcessor)
        sam3 = hasattr(self.model, "detector_model") or hasattr(self.model, "mask_decoder")
        both = SimpleNamespace(tokenizer=self.tokenizer, image_processor=self.image_processor)
        plain = getattr(self.image_processor, "do_normalize", None) is False
        # Settings become the segmenter's own, so that a call may change the method without inheriting its options.
        self.segmenter = Segmenter(
            self.model,
            both if sam3 else self.tokenizer,
            image_mean=PLAIN_MEAN if plain else getattr(self.image_processor, "image_mean", None),
            image_std=PLAIN_STD if plain else getattr(self.image_processor, "image_std", None),
            presence=presence_in(self.model.name_or_path),
            **self._preprocess_params.pop("settings", {}),
        )
        self._forward_params.pop("settings", None)

    def __call__(  # type: ignore[override]
        self, inputs: Any = None, candidate_labels: Any = None, **parameters: Any
    ) -> Any:
        """Segment one picture, or a list, generator or data set of them.

        Args:
            inputs: a path, URL, base64 text, PIL picture, or whatever else `Segmenter` takes; what `encode` gave,
                for a second question that costs next to nothing; a dict with one as
                ``"image"`` and its own ``"candidate_labels"``; a list, a generator or a ``torch`` data set of those
                (such as transformers' ``KeyDataset``). From the latter two results come one by one, as they are asked
                for.
            candidate_labels: a list of names, or names between commas. A list inside the list, or a dict of label to
                names, gives synonyms of one class: ``["cat", ["sofa", "couch"]]``. With a list of pictures, a list that
                holds nothing but lists gives each picture its own labels.
            hypothesis_template: ``"This is a photo of a {}."``, or several whose embeddings are averaged; the 80
                templates of CLIP's ImageNet evaluation where it is not given.
            threshold: pixels whose best label has a lower score (a softmax over all labels, 0 to 1) stay unlabelled.
            background: True adds the class ``"background"``, which stands for SCLIP's list of stuff words.
            method: what replaces the last block, such as ``"naclip(std=4)"``; see `sclip_plugin.list_methods`.
            window: side of the square windows in pixels; 0 takes a picture in one pass.
            refine: True for PAMR, which fits masks to the edges of the picture, and specks, which removes small
                regions; or ``"pamr(steps=5)"``, ``"sam(…)"``.
            output: ``"masks"``, or ``"semantic"`` for the label map in one piece.
            timeout: seconds to wait for a picture from the web; None for no end.
            batch_size, num_workers: as for every pipeline of transformers.
            **parameters: any other field of `sclip_plugin.settings.Settings`: ``stride``, ``masks``, ``steps``, …

        Returns:
            For one picture a list with a dict for each label found, the best score first:

            - ``"label"`` (`str`): as given, the first of its synonyms;
            - ``"score"`` (`float`): the mean score of the pixels that carry it;
            - ``"mask"`` (`PIL.Image`): mode L, of the picture's size; 255 where the label is, else 0.

            With ``output="semantic"`` one dict instead: ``"labels"``, a list of all labels, and ``"label_map"``, an
            array (height, width) of int16 with the index of each pixel's label, -1 where it is unlabelled.

        Raises:
            LabelError: no labels, empty ones, or one twice.
            PictureError: a picture that can't be read.
        """
        for name in ("image", "images"):
            inputs = parameters.pop(name, inputs)
        if inputs is None:
            raise PictureError(f"no picture was given; expected one as the first argument of the {TASK} pipeline.")
        if isinstance(inputs, (list, tuple)):
            inputs = list(inputs)
            if not inputs:
                return []
            if _holds_only_lists(candidate_labels):
                inputs = _with_own_labels(inputs, candidate_labels)
                candidate_labels = None
        if candidate_labels is not None:
            parameters["candidate_labels"] = candidate_labels
        return super().__call__(inputs, **parameters)

    def encode(self, inputs: Any, timeout: float | None = None, **settings: Any) -> Any:
        """Look at a picture once, to ask about it many times: ``pipe(pipe.encode("photo.jpg"), candidate_labels=…)``.

        Args:
            inputs: a picture as for a call, or a list of them.
            timeout: seconds to wait for a picture from the web; None for no end.
            **settings: fields of `sclip_plugin.settings.Settings` that decide the features, such as ``method``.

        Returns:
            A `sclip_plugin.Encoded`, or a list of them.
        """
        if isinstance(inputs, (list, tuple)):
            return self.segmenter.encode([_load(source, timeout) for source in inputs], **settings)
        return self.segmenter.encode(_load(inputs, timeout), **settings)

    def _sanitize_parameters(  # type: ignore[override]
        self,
        candidate_labels: Any = None,
        timeout: float | None = None,
        output: Literal["masks", "semantic"] | None = None,
        hypothesis_template: Any = None,
        **settings: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if hypothesis_template is not None:
            settings["templates"] = hypothesis_template
        # What is wrong is said here, before a picture is read, not by a worker process in the middle of a stream.
        if candidate_labels is not None:
            _check(candidate_labels)
        if output not in (None, "masks", "semantic"):
            raise SettingError(f"output={output!r}; expected 'masks' or 'semantic'.")
        if settings and hasattr(self, "segmenter"):
            self.segmenter.chosen(None, settings)
        shared = {"settings": settings} if settings else {}
        preprocess = {**shared, **({} if timeout is None else {"timeout": timeout})}
        forward = {**shared, **({} if candidate_labels is None else {"candidate_labels": candidate_labels})}
        return preprocess, forward, {} if output is None else {"output": output}

    def preprocess(  # type: ignore[override]
        self, inputs: Any, settings: Mapping[str, Any] | None = None, timeout: float | None = None
    ) -> dict[str, Any]:
        """Read and resize. The picture itself stays here, unless SAM is to see it: what leaves a worker is small."""
        labels = None
        if isinstance(inputs, Mapping):
            if "image" not in inputs:
                raise PictureError(f"a dict was given with {sorted(inputs)}; expected 'image' and 'candidate_labels'.")
            labels = inputs.get("candidate_labels")
            inputs = inputs["image"]
            if labels is not None:
                _check(labels)
        if _is_encoded(inputs):
            return {"picture": (inputs, labels, "")}
        chosen = self.segmenter.chosen(None, dict(settings or {}))
        prepared = self.segmenter.prepare(_load(inputs, timeout), chosen)
        name = getattr(prepared.picture, "filename", "")  # which pickling loses, and a folder of masks goes by
        if not _sees_picture(chosen):
            prepared = replace(prepared, picture=None)
        # A tuple, so that transformers' collate function makes a list of them and pads nothing.
        return {"picture": (prepared, labels, name)}

    def _forward(  # type: ignore[override]
        self, model_inputs: dict[str, Any], candidate_labels: Any = None, settings: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        pictures = model_inputs["picture"]
        batch = [pictures] if isinstance(pictures, tuple) else pictures
        results: list[Segmentation] = []
        for labels, group in groupby(batch, key=lambda picture: picture[1]):
            asked = candidate_labels if labels is None else labels
            for known, members in groupby(group, key=lambda picture: _is_encoded(picture[0])):
                if known:
                    results += (encoded.segment(asked, **settings or {}) for encoded, *_ in members)
                else:
                    prepared = [_named(prepared, name) for prepared, _, name in members]
                    results += self.segmenter.stream(prepared, asked, **settings or {})
        return {"segmentation": results[0] if batch is not pictures else results}

    def postprocess(self, model_outputs: dict[str, Any], output: str = "masks") -> Any:  # type: ignore[override]
        result: Segmentation = model_outputs["segmentation"]
        if output == "semantic":
            return {"labels": list(result.labels), "label_map": result.label_map}
        rows = sorted((row for row in result.rows() if row["score"] is not None), key=lambda row: -row["score"])
        return [
            {key: row[key] for key in ("label", "score", "presence") if key in row}
            | {"mask": Image.fromarray(result.mask(row["label"]) * np.uint8(255))}
            for row in rows
        ]


def _sees_picture(settings: Settings) -> bool:
    """Whether anything looks at the picture itself, behind the pixels that windows are cut from."""
    looking = settings.masks is not None or any(step.needs_features for step in settings.make_steps())
    return looking or settings.make_method().takes_whole_pictures


def _named(prepared: Prepared, name: str) -> Prepared:
    if prepared.picture is not None and name:
        prepared.picture.filename = name  # type: ignore[attr-defined]
    return prepared


def _beside(model: Any, kind: Any) -> Any:
    """What the checkpoint of a model also holds, or None."""
    try:
        return kind.from_pretrained(model.name_or_path, revision=getattr(model.config, "_commit_hash", None))
    except (OSError, ValueError):
        return None


def _is_encoded(picture: Any) -> bool:
    from sclip_plugin.segment.encoded import Encoded

    return isinstance(picture, Encoded)


def _check(labels: Any) -> None:
    from sclip_plugin.text.labels import parse_labels

    parse_labels(labels)


def _holds_only_lists(labels: Any) -> bool:
    return isinstance(labels, (list, tuple)) and bool(labels) and all(isinstance(x, (list, tuple)) for x in labels)


def _with_own_labels(pictures: list, labels: Any) -> list[dict[str, Any]]:
    if len(pictures) != len(labels):
        raise LabelError(
            f"{len(pictures)} pictures were given with {len(labels)} lists of labels; expected one list for each, or "
            "one for all. Where the lists name synonyms, write a dict: {'sofa': ['sofa', 'couch'], …}."
        )
    return [{"image": picture, "candidate_labels": own} for picture, own in zip(pictures, labels, strict=True)]


def _load(source: Any, timeout: float | None) -> Picture:
    """A picture as `Segmenter` takes it; of a URL or base64 text, which it doesn't take, the picture that was read."""
    from sclip_plugin.imaging.fetching import fetched, is_url
    from sclip_plugin.imaging.opening import named_bytes
    from sclip_plugin.imaging.pictures import read_picture

    if not isinstance(source, str) or os.path.exists(source):
        return source
    if is_url(source):
        return read_picture(named_bytes(fetched(source, timeout), source))
    try:
        text = source.partition(",")[2] if source.startswith("data:image/") else source
        return read_picture(io.BytesIO(base64.b64decode(text)))
    except ValueError as error:  # no base64, or no picture in it
        shown = source if len(source) <= 200 else f"{source[:200]}…"
        raise PictureError(
            f"{shown!r} cannot be read as a picture; expected a path that exists, a URL, or a picture in base64."
        ) from error


def register() -> None:
    """Make the task known to ``transformers.pipeline``. ``import sclip_plugin`` does it, in either order of imports."""
    if TASK in PIPELINE_REGISTRY.supported_tasks:
        return
    # transformers 4 names the framework in front of a default model, as its own tasks do.
    by_framework = isinstance(PIPELINE_REGISTRY.supported_tasks["image-segmentation"]["default"]["model"], dict)
    default = {"model": {"pt": (DEFAULT_MODEL, REVISION)} if by_framework else (DEFAULT_MODEL, REVISION)}
    PIPELINE_REGISTRY.register_pipeline(
        TASK, ZeroShotSegmentationPipeline, pt_model=(AutoModel,), default=default, type="multimodal"
    )
    # With this, save_pretrained would copy this file beside the weights, and name it in the model's config as code that
    # must be trusted before anything can be loaded.
    del ZeroShotSegmentationPipeline._registered_impl  # type: ignore[attr-defined]
