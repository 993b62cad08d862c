"""Pictures into Detectron2's loaders, read as everywhere in this package."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.data.detection_utils import check_image_size
from detectron2.utils.file_io import PathManager

from sclip_plugin.errors import SettingError
from sclip_plugin.imaging.pictures import read_picture


class PictureMapper(DatasetMapper):
    """`detectron2.data.DatasetMapper` for evaluation, whose pictures are those of `Segmenter`.

    Detectron2's own turns a TIFF twice, cuts 16-bit values off at 255 and drops transparency. Ground truth is left to
    the evaluator, as it is there.

    Args:
        as for ``DatasetMapper``, with ``is_train=False``.

    Raises:
        SettingError: ``is_train=True``.
        PictureError: (on a call) a picture that can't be read.

    Example:
        >>> build_detection_test_loader(cfg, name, mapper=PictureMapper(cfg, is_train=False))  # doctest: +SKIP
    """

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        if self.is_train:
            raise SettingError("PictureMapper reads pictures for evaluation; expected is_train=False.")
        record = {key: value for key, value in dataset_dict.items() if key not in ("annotations", "sem_seg_file_name")}
        with PathManager.open(record["file_name"], "rb") as file:
            picture = read_picture(file)
        pixels = np.asarray(picture.convert("L"))[..., None] if self.image_format == "L" else np.asarray(picture)
        pixels = pixels[..., ::-1] if self.image_format == "BGR" else pixels
        check_image_size(record, pixels)
        seen = T.AugInput(pixels)
        self.augmentations(seen)
        record["image"] = torch.from_numpy(np.array(seen.image.transpose(2, 0, 1), order="C"))
        return record
