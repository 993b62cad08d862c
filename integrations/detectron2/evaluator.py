"""The project's own metric as an evaluator of Detectron2's."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

from sclip_plugin.evaluation import IoUTotals
from sclip_plugin.evaluation.datasets import read_labels


class IoUEvaluator(DatasetEvaluator):
    """mIoU as MMSegmentation and ``sclip eval`` define it, under the names that SemSegEvaluator gives its figures.

    `detectron2.evaluation.SemSegEvaluator` works as well, with the same figures on a whole benchmark. It differs where
    a class is predicted but occurs in no picture of the set: versions after 0.6 leave it out of the mean, where
    MMSegmentation counts it as 0. It also keeps every prediction for a file, and later versions compute boundaries.

    Args:
        dataset_name: in Detectron2's catalog; its metadata have ``stuff_classes`` and ``ignore_label``.
        distributed: add up the counts of all processes; only the first then gets the figures.

    Raises:
        LabelRangeError: (on `process`) a ground truth holds a value that names no class.
    """

    def __init__(self, dataset_name: str, distributed: bool = True) -> None:
        metadata = MetadataCatalog.get(dataset_name)
        self._names = metadata.stuff_classes
        self._ignore_label = metadata.ignore_label
        self._distributed = distributed
        self._masks = {record["file_name"]: record["sem_seg_file_name"] for record in DatasetCatalog.get(dataset_name)}
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self.totals = IoUTotals(len(self._names), self._ignore_label)

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        """Count pictures.

        Args:
            inputs: dicts with "file_name".
            outputs: dicts with "sem_seg", (classes, H, W) of the size of the ground truth.
        """
        for given, output in zip(inputs, outputs, strict=True):
            with PathManager.open(self._masks[given["file_name"]], "rb") as file:
                target = read_labels(file)
            self.totals.add(output["sem_seg"].argmax(dim=0).cpu().numpy(), target)

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """``{"sem_seg": {"mIoU", "fwIoU", "IoU-NAME", "mACC", "pACC", "ACC-NAME"}}`` in per cent.

        Nan for a class that is nowhere. None in processes other than the first.
        """
        totals = self.totals
        if self._distributed:
            totals = IoUTotals(len(self._names), self._ignore_label)
            for counts in comm.all_gather(self.totals.counts):
                totals.merge(counts)
            if not comm.is_main_process():
                return None
        labelled = totals.counts[2]
        weighted = np.nansum(totals.iou * labelled) / labelled.sum() if labelled.sum() else float("nan")
        figures = {
            "mIoU": totals.miou,
            "fwIoU": weighted,
            **{f"IoU-{name}": value for name, value in zip(self._names, totals.iou, strict=True)},
            "mACC": totals.macc,
            "pACC": totals.aacc,
            **{f"ACC-{name}": value for name, value in zip(self._names, totals.accuracy, strict=True)},
        }
        return OrderedDict(sem_seg={key: 100 * float(value) for key, value in figures.items()})
