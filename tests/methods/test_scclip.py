"""SC-CLIP's steps, each against the plainest way to compute it."""

from __future__ import annotations

import golden
import pytest
import torch

import sclip_plugin as sp
from sclip_plugin.methods import make_method
from sclip_plugin.methods.scclip import local_outliers, repair

from .models import golden_model


def outliers_one_by_one(X, neighbours, contamination):
    """The published definition for one picture (N, C), patch by patch."""
    count = len(X)
    neighbours = min(neighbours, count - 1)
    squared = ((X[:, None] - X[None]) ** 2).sum(-1).double()
    density, nearest = [], []
    for i in range(count):
        others = sorted((squared[i, j].item(), j) for j in range(count) if j != i)[:neighbours]
        k_distance = others[-1][0]
        density.append(neighbours / (sum(max(d, k_distance) for d, _ in others) / neighbours))
        nearest.append([j for _, j in others])
    factor = torch.tensor([sum(density[j] for j in nearest[i]) / neighbours / density[i] for i in range(count)])
    ordered = factor.sort().values
    position = (1 - contamination) * (count - 1)
    low = int(position)
    threshold = ordered[low] + (position - low) * (ordered[min(low + 1, count - 1)] - ordered[low])
    return factor > threshold


@pytest.mark.parametrize(("count", "neighbours"), [(49, 30), (70, 30), (28, 30), (2, 30), (40, 5)])
def test_outliers(count, neighbours):
    X = torch.randn(2, count, 16) * torch.randn(2, count, 1).exp()
    found = local_outliers(X, neighbours, 0.05)
    for ours, picture in zip(found, X, strict=True):
        assert ours.tolist() == outliers_one_by_one(picture, neighbours, 0.05).tolist()


def test_the_patch_that_stands_out_is_an_outlier():
    X = torch.randn(1, 49, 16)
    X[0, 17] += 100
    assert local_outliers(X, 30, 0.05)[0, 17]


def test_equal_patches_have_no_outliers():
    assert not local_outliers(torch.ones(1, 49, 16), 30, 0.05).any()
    assert not local_outliers(torch.ones(1, 1, 16), 30, 0.05).any()


def test_repair_takes_the_mean_of_neighbours_that_are_none():
    h, w = 3, 4
    X = torch.arange(float(h * w)).view(1, h * w, 1).repeat(2, 1, 2)
    outliers = torch.zeros(2, h * w, dtype=torch.bool)
    outliers[0, 0] = outliers[0, 5] = True  # a corner and a patch beside it
    repaired = repair(X, outliers, (h, w))
    assert repaired[0, 0, 0].item() == pytest.approx((1 + 4) / 2)
    assert repaired[0, 5, 0].item() == pytest.approx((1 + 2 + 4 + 6 + 8 + 9 + 10) / 7)
    untouched = ~outliers
    assert torch.equal(repaired[untouched], X[untouched])


def test_an_outlier_among_outliers_stays():
    X = torch.randn(1, 9, 2)
    assert torch.equal(repair(X, torch.ones(1, 9, dtype=torch.bool), (3, 3)), X)


def test_similarities_below_beta_do_not_count():
    """With β above all similarities but a patch's own, patches are left alone by both aggregations."""
    X = torch.randn(1, 6, 8)
    G = torch.eye(6)[None] + 0.3 * (1 - torch.eye(6))
    golden.assert_equal(make_method("scclip", {"beta": 0.4}).aggregate(X, G), X)
    mean = make_method("scclip", {"beta": 0.1}).aggregate(X, torch.ones(1, 6, 6))
    golden.assert_equal(mean, X.mean(dim=1, keepdim=True).expand_as(X))


@pytest.mark.parametrize(
    "options",
    [{"beta": 0.7}, {"early_layer": 6}, {"late_layer": 8}, {"multi_layers": (2, 5)}, {"cls_residual": 0.0},
     {"lof_neighbours": 5}, {"lof_contamination": 0.2}],
    ids=lambda o: next(iter(o)),
)  # fmt: skip
def test_every_option_matters(options):
    picture = golden.arrays("inputs")["pixels.112x112"][:1]
    published = sp.dense_features(golden_model(), picture, "scclip")
    assert golden.relative_difference(sp.dense_features(golden_model(), picture, "scclip", **options), published) > 1e-4


@pytest.mark.parametrize("layers", [(4,), (10, 4), (4, 7, 10)])
def test_a_range_that_is_none(layers):
    with pytest.raises(ValueError, match="multi_layers"):
        make_method("scclip", {"multi_layers": layers})
