"""A refinement of decided labels, of a segmentation as a whole."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from PIL import Image

from ..errors import ShapeError
from ..refinements import LabelledPicture, Refinement
from ..towers import Tower
from .segmentation import Segmentation


def refined(decided: Segmentation, refinement: Refinement, picture: Image.Image, tower: Tower) -> Segmentation:
    """A segmentation after a refinement, with the labels and scores that it gives.

    A picture whose scores would take more than 256 MiB is refined at the size at which they take no more; where labels
    change there, the picture's own do.

    Args:
        decided: with scores.
        picture: RGB, to look at.
        tower: whose patch, device and precision an outside model goes by.

    Raises:
        ShapeError: the refinement gave labels or scores of another shape.
    """
    weight = next(tower.trunk.parameters())
    assert decided.scores is not None
    scores = torch.from_numpy(decided.scores)
    size = (scores.shape[1], scores.shape[2])
    whole = torch.from_numpy(decided.label_map).long()
    labels = F.interpolate(whole[None, None].float(), size=size)[0, 0].long()
    given = LabelledPicture(
        scores=scores,
        labels=labels,
        picture=picture,
        patch_size=tower.patch_size,
        device=weight.device,
        dtype=weight.dtype,
    )
    new, new_scores = refinement(given)
    if new.shape != labels.shape or new_scores.shape != scores.shape:
        raise ShapeError(
            f"refinement {refinement.name or type(refinement).__name__} gave labels {tuple(new.shape)} and scores "
            f"{tuple(new_scores.shape)}; expected {tuple(labels.shape)} and {tuple(scores.shape)}."
        )
    if size != decided.size:
        both = torch.stack([(new != labels), new])[None].float()
        changed, larger = F.interpolate(both, size=decided.size)[0]
        new = torch.where(changed > 0, larger.long(), whole)
    return Segmentation(decided.labels, new, decided.picture, new_scores, decided.settings)
