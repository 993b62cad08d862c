"""PEARL's propagation against what the authors' code gives in double precision, and on small grids."""

from __future__ import annotations

import golden
import pytest
import torch

import sclip_plugin as sp
from sclip_plugin.steps.pearl import gates_of, pooled, propagated

LABELS = [
    ["sky", "wall", "tree", "grass", "road"],
    "cat",
    "dog",
    ["person", "person in shirt", "person in dress"],
    "potted plant",
]


@pytest.fixture(scope="module")
def seg():
    model, tokenizer = golden.model("transformers"), golden.tokenizer_of("transformers")
    return sp.Segmenter(model, tokenizer, window=112, stride=56, cache_dir=False, method="pearl")


@pytest.mark.parametrize("cells", [80, 24])
@pytest.mark.parametrize("name", ["segmentor", "segmentor_small"])
def test_scores_and_labels_are_the_authors(seg, name, cells):
    arrays = golden.arrays("PEARL")
    pixels = arrays["segmentor.pixels"] if name == "segmentor" else golden.arrays("inputs")["small"]
    size = pixels.shape[2] + 21, pixels.shape[3] + 33
    plain = seg(golden.prepared(pixels[0]), LABELS)
    logits = golden.every_fourth(plain._scores.maps.full().permute(2, 0, 1))
    golden.assert_equal(logits, arrays[f"{name}.slide_logits.every4"][0])

    result = seg(golden.prepared(pixels[0], size), LABELS, steps=f"pearl({cells}), normalize")
    spread = golden.every_fourth(result._scores.maps.full().permute(2, 0, 1))
    golden.assert_equal(spread, arrays[f"{name}.grid{cells}.propagated64.every4"][0].float())
    shares = golden.every_fourth(torch.from_numpy(result.scores))
    golden.assert_equal(shares, arrays[f"{name}.grid{cells}.probs64.scale40.every4"].float())
    same = torch.from_numpy(result.label_map) == arrays[f"{name}.grid{cells}.labels64.scale40"][0]
    assert same.float().mean() >= 0.9999
    golden.assert_equal(gates_of(seg.text_embeddings(LABELS)[1]), arrays[f"{name}.grid{cells}.gates"])


def test_pooling_is_the_mean_of_whole_blocks():
    maps = sp.Segmenter.from_pretrained("demo")(sp.draw_scene(seed=1).picture, ["sky", "cat"])._scores.maps
    for each in (maps, type(maps)(maps.full())):
        found = pooled(each, (5, 3)).full()
        expected = torch.nn.functional.avg_pool2d(each.full().permute(2, 0, 1), (5, 3)).permute(1, 2, 0)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_a_converged_system_is_solved():
    """Of few cells 25 steps are as good as exact."""
    torch.manual_seed(0)
    scores, colours = torch.rand(2, 3, 2, dtype=torch.double), torch.randn(3, 2, 3, dtype=torch.double)
    text = torch.nn.functional.normalize(torch.randn(2, 8, dtype=torch.double), dim=1)
    found = propagated(scores, colours, text)
    gates, shares = gates_of(text), scores.softmax(dim=2)
    kept = shares.amax(dim=2).clamp(min=0.05) ** 2 * (1 + (gates * shares**2).sum(dim=2).clamp(0, 1))
    grey = 0.299 * colours[0] + 0.587 * colours[1] + 0.114 * colours[2]
    system, cells = torch.diag(kept.flatten()), [(y, x) for y in range(2) for x in range(3)]
    for down, across in ((1, 0), (0, 1)):
        pairs = [((y, x), (y + down, x + across)) for y, x in cells if (y + down, x + across) in cells]
        mean = sum(abs(grey[a] - grey[b]) for a, b in pairs) / len(pairs)
        for a, b in pairs:
            both = (gates * shares[a] * shares[b]).sum().clamp(0, 1)
            weight = (torch.exp(-5 * abs(grey[a] - grey[b]) / (mean + 1e-6)) * (1 + both)).clamp(0, 1)
            i, j = cells.index(a), cells.index(b)
            system[i, i] += weight
            system[j, j] += weight
            system[i, j] -= weight
            system[j, i] -= weight
    exact = torch.linalg.solve(system, (kept[..., None] * scores).flatten(0, 1))
    torch.testing.assert_close(found.flatten(0, 1), exact, atol=1e-6, rtol=0)


def test_pictures_of_one_row_and_of_one_pixel_are_spread():
    seg = sp.Segmenter.from_pretrained("demo", presence=None)
    for size in ((1, 1), (40, 1), (1, 40)):
        picture = sp.draw_scene(seed=1).picture.resize(size)
        assert seg(picture, ["sky", "cat"], steps="pearl").label_map.shape == size[::-1]
