"""CLIPtrase's clusters (arXiv 2407.08268): each cluster of patches takes the class of its majority."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..fields import field_of
from ..importing import needs
from .base import PatchScores, Place, Step
from .registry import register_step

if TYPE_CHECKING:
    from ..towers.base import BlockInput
    from ..towers.running import Context


@register_step("clusters")
@dataclass(frozen=True, kw_only=True)
class Clusters(Step):
    """DBSCAN on the rows of R, of each window; a patch is in the cluster whose mean row is highest there.

    R are the cosines of the last block but one's q, k and v, averaged, minus those of CLS, negatives 0. A patch's best
    score and its cluster's class's best score change places, so only the order of classes changes. The published code
    takes clusters and majorities at the pixels of one square picture, through a median filter; here they are taken at
    the patches. It needs scikit-learn: ``pip install "sclip_plugin[sklearn]"``.

    Fields:
        eps, min_samples: parameters of DBSCAN; the authors use 0.7 and 3 for 224 pixels, 1.1 and 7 for 336.
    """

    on: ClassVar[Place] = "patches"
    summary: ClassVar[str] = "give each cluster of patches the class of its majority"
    source: ClassVar[str] = "CLIPtrase, arXiv 2407.08268"
    eps: float = field_of(0.7, "DBSCAN's largest distance of neighbours", above=0)
    min_samples: int = field_of(3, "DBSCAN's least neighbours of a core patch", low=1)

    def taps(self, depth: int) -> tuple[int, ...]:
        return (max(0, depth - 2),)

    def look(self, context: Context) -> Tensor:
        """R of each window, (B, N, N)."""
        return recalibrated(context.taps[max(0, context.depth - 2)], context.prefix_tokens)

    def __call__(self, given: PatchScores) -> Tensor:
        assert given.looked is not None, "it has taps"
        scores = given.scores.flatten(1, 2).clone()
        of_class = torch.tensor(given.words.class_of_name, device=scores.device)
        for number, R in enumerate(given.looked):
            clusters = self.clusters(R)
            if clusters is not None:
                scores[number] = by_majority(scores[number], clusters, of_class)
        return scores.view_as(given.scores)

    def clusters(self, R: Tensor) -> Tensor | None:
        """The cluster of each patch, (N,), of R (N, N); None where there is none."""
        dbscan = needs("sklearn.cluster", "sklearn").DBSCAN(eps=self.eps, min_samples=self.min_samples)
        found = torch.from_numpy(dbscan.fit_predict(R.cpu().numpy())).to(R.device)
        if not (found >= 0).any():
            return None
        rows = torch.stack([R[found == c].mean(dim=0) for c in range(int(found.max()) + 1)])
        return rows.argmax(dim=0)


def recalibrated(block: BlockInput, prefix: int) -> Tensor:
    """R of patches, (B, N, N), of a block with the tokens that enter it; without CLS nothing is taken off."""
    cosines = []
    for heads in (block.q, block.k, block.v):
        unit = F.normalize(heads.float(), dim=-1)
        cosines.append((unit @ unit.mT).mean(dim=1))
    R = torch.stack(cosines).mean(dim=0)
    of_cls = R[:, :1] if prefix else 0.0
    return (R - of_cls).clamp_min(0.0)[:, prefix:, prefix:]


def by_majority(scores: Tensor, clusters: Tensor, of_class: Tensor) -> Tensor:
    """Scores (N, K) in which each patch's best class is the one that is best at most patches of its cluster (N,)."""
    best = scores.argmax(dim=1)
    chosen = torch.zeros_like(best)
    for cluster in clusters.unique():
        inside = clusters == cluster
        chosen[inside] = of_class[best[inside]].bincount().argmax()
    name = scores.masked_fill(of_class != chosen[:, None], -torch.inf).argmax(dim=1)
    swapped = scores.clone()
    places = torch.arange(len(scores), device=scores.device)
    swapped[places, name], swapped[places, best] = scores[places, best], scores[places, name]
    return swapped
