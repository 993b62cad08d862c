"""Labels taught by annotated pictures: the fit against its formula, what is kept, what is refused."""

import dataclasses

import numpy as np
import pytest
import torch

import sclip_plugin as sp
from sclip_plugin.demo import THINGS
from sclip_plugin.errors import FileFormatError, LabelError, ShapeError
from sclip_plugin.memory.examples import Cells
from sclip_plugin.segment.anchored import (
    Held,
    Start,
    best_threshold,
    chosen,
    counts,
    fit,
    left_out,
    miou,
    targets,
    words,
)
from sclip_plugin.text.files import read_labels
from sclip_plugin.text.tuned import Tuned, cells_path

SEEDS = range(1_000_000_000, 1_000_000_004)


@pytest.fixture(scope="module")
def demo():
    return sp.Segmenter.from_pretrained("demo", device="cpu", cache_dir=False, templates="plain")


@pytest.fixture(scope="module")
def scenes():
    return [sp.draw_scene(seed) for seed in SEEDS]


@pytest.fixture(scope="module")
def labels(scenes):
    present = {label for scene in scenes for label in scene.labels}
    return [*sorted(present), next(thing for thing in THINGS if thing not in present)]


@pytest.fixture(scope="module")
def masks(scenes, labels):
    return [np.array([labels.index(label) for label in scene.labels])[scene.label_map] for scene in scenes]


@pytest.fixture(scope="module")
def pictures(scenes):
    return [scene.picture for scene in scenes]


@pytest.fixture(scope="module")
def tuned(demo, pictures, masks, labels):
    return demo.tune(pictures, masks, labels)


def problem(names=(0, 1, 1, 2), background=None, seed=0):
    """Random cells that text tells little about."""
    generator = torch.Generator().manual_seed(seed)
    unit = torch.nn.functional.normalize
    text = unit(torch.randn(len(names), 8, generator=generator), dim=1)
    features = unit(torch.randn(60, 8, generator=generator), dim=1)
    shares = torch.rand(60, max(names) + 1, generator=generator).pow(4) * torch.tensor([9.0, 1, 0.1])
    return Start(text, names, max(names) + 1, 40.0, background), features, shares / shares.sum(dim=1, keepdim=True)


def slope_of(start, features, shares, rows, weight, first):
    """The gradient of the formula, written class by class in double precision, at some rows."""
    x, p = features.double(), shares.double()
    added, constants = (values.double().clone().requires_grad_() for values in (rows.added, rows.constants))
    area = p.sum(dim=0)
    of_cell = sum(p[:, c] / area[c] ** 0.5 for c in range(start.classes))
    z = []
    for c in range(start.classes):
        own = [t.double() for t, of in zip(start.text, start.class_of_name, strict=True) if of == c]
        anchor = 0.0 if c == start.background else torch.stack([x @ t for t in own]).amax(dim=0)
        z.append(start.scale * (anchor + x @ added[c] + constants[c]))
    log = torch.stack(z, dim=1) - torch.logsumexp(torch.stack(z, dim=1), dim=1, keepdim=True)
    loss = -(of_cell / of_cell.sum() * (p * log).sum(dim=1)).sum()
    loss = loss + weight * start.scale**2 * (added.square().sum() + (constants - first.double()).square().sum())
    loss.backward()
    return torch.cat([added.grad.flatten(), constants.grad])


@pytest.mark.parametrize("background", [None, 0])
def test_the_fit_is_the_least_of_its_formula(background):
    """Where it ends the formula has next to no slope; it is convex."""
    start, features, shares = problem(background=background)
    rows = fit(start, features, shares, 1e-3)
    begin = words(start, rows.threshold)
    slope, before = (slope_of(start, features, shares, at, 1e-3, begin.constants).norm() for at in (rows, begin))
    assert slope < 0.01 * before


def test_the_threshold_is_the_best_of_65_quantiles():
    start, features, shares = problem(background=0)
    cosines = (features @ start.text.T)[:, 1:].amax(dim=1)
    found = {}
    for value in cosines.quantile(torch.linspace(0, 1, 65)).tolist():
        total = np.zeros((3, 3))
        for x, share, best in zip(features, shares.double().numpy(), cosines, strict=True):
            of_names = start.text @ x
            label = 0 if best < value else 1 if max(of_names[1:3]) > of_names[3] else 2
            total[0, label] += share[label]
            total[1, label] += 1
            total[2] += share
        found[value] = np.mean(total[0] / (total[1] + total[2] - total[0]))
    tied = [value for value, iou in found.items() if iou > max(found.values()) - 1e-9]
    assert best_threshold(start, features, shares) == pytest.approx(tied[len(tied) // 2], abs=1e-6)


def test_of_thresholds_that_are_as_good_the_middle_one_is_taken():
    start = Start(torch.eye(2), (0, 1), 2, 40.0, 0)
    cosines = torch.tensor([0.1, 0.9, 0.9])
    features = torch.stack([torch.zeros(3), cosines], dim=1)
    shares = torch.tensor([[1.0, 0], [0, 1], [0, 1]])
    between = [value for value in cosines.quantile(torch.linspace(0, 1, 65)).tolist() if value > 0.1 + 1e-6]
    assert best_threshold(start, features, shares) == pytest.approx(between[len(between) // 2])


def test_miou_is_over_the_classes_that_are_labelled():
    shares = torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0]])
    assert miou(counts(torch.tensor([0, 2]), shares)) == pytest.approx(100 * (1 / 1.5 + 0) / 2)


def test_a_cell_has_the_share_of_each_class():
    label_map = np.array([[0, 0, 1, -1], [0, 2, 1, -2]])
    cells = Cells.of("key", torch.arange(4.0).view(2, 1, 2), label_map, 3)
    np.testing.assert_allclose(cells.shares.float(), [[0.75, 0, 0.25, 0], [0, 0.5, 0, 0.25]])
    _, plain = targets(cells, None)
    np.testing.assert_allclose(plain, [[0.75, 0, 0.25], [0, 1, 0]])
    _, of_background = targets(cells, 0)
    np.testing.assert_allclose(of_background, [[0.75, 0, 0.25], [1 / 3, 2 / 3, 0]], atol=1e-3)


def test_a_few_pictures_teach(demo, scenes, pictures, masks, tuned, labels):
    """A scene like those of the examples has a better label map, and a class without examples stays what it is."""
    renamed = scenes[0].labels[0]
    nonsense = ["zorbl" if label == renamed else label for label in labels]
    taught = demo.tune(pictures, masks, nonsense)
    truth = scenes[0].label_map == 0
    found = [demo(pictures[0], words).label_map == labels.index(renamed) for words in (nonsense, taught)]
    before, after = ((each & truth).sum() / (each | truth).sum() for each in found)
    assert after > 0.5 + before
    assert tuned.report["pictures"][labels[-1]] == 0 and tuned.report["chosen"] == 1e-4
    row, word = dict(tuned.vectors)[len(labels) - 1], demo.text_embeddings(labels[-1:])[1][0].numpy()
    assert row @ word / np.linalg.norm(row) > 0.95


def test_names_of_a_class_share_what_it_learns(demo, pictures, masks, labels):
    several = [[label, f"small {label}"] for label in labels]
    tuned = demo.tune(pictures[:1], masks[:1], several)
    text = demo.text_embeddings(several)[1].numpy()
    added = np.stack([row for _, row in tuned.vectors]) - text
    np.testing.assert_allclose(added[::2], added[1::2], atol=1e-6)
    assert np.abs(added).max() > 1e-3 and len(tuned.constants) == len(labels)


def test_a_background_is_a_threshold(demo, scenes):
    """All that nobody labelled is background."""
    things = sorted({scene.labels[0] for scene in scenes})
    labels = ["background", *things]
    maps = [np.where(scene.label_map == 0, labels.index(scene.labels[0]), -1) for scene in scenes]
    tuned = demo.tune([scene.picture for scene in scenes], maps, labels)
    threshold = tuned.report["threshold"]
    assert threshold is not None and abs(tuned.constants[0] - threshold) < 0.2
    start = Start(demo.text_embeddings(labels)[1], range(len(labels)), len(labels), 40.0, 0)
    rows = fit(start, *targets(tuned.cells, 0), tuned.report["chosen"])
    seen = tuned.cells.features.float()
    kept = torch.from_numpy(np.stack([row for _, row in tuned.vectors]))
    torch.testing.assert_close(seen @ kept.T + torch.tensor(tuned.constants), rows.logits(start, seen))
    hits = unions = 0
    for scene, truth in zip(scenes, maps, strict=True):
        found = demo(scene.picture, tuned).label_map
        hits, unions = hits + ((found == 0) & (truth < 0)).sum(), unions + ((found == 0) | (truth < 0)).sum()
    assert hits / unions > 0.8


def test_what_does_not_gain_is_not_learnt(demo, pictures, labels):
    noise = np.random.default_rng(0)
    masks = [noise.integers(0, len(labels), (96, 96)).repeat(1).reshape(96, 96) for _ in pictures]
    masks = [np.full((96, 96), i % len(labels)) for i, _ in enumerate(masks)]  # each picture another class: no pattern
    tuned = demo.tune(pictures, masks, labels)
    assert tuned.report["chosen"] == "words"
    np.testing.assert_allclose(np.stack([row for _, row in tuned.vectors]), demo.text_embeddings(labels)[1], atol=1e-6)
    assert set(tuned.constants) == {0.0}
    plain, same = demo(pictures[0], labels), demo(pictures[0], tuned)
    np.testing.assert_array_equal(plain.label_map, same.label_map)


def test_two_pictures_are_not_left_out(demo, pictures, masks, labels):
    assert demo.tune(pictures[:2], masks[:2], labels).report["left_out"] is None


def test_each_picture_is_left_out_once():
    start, features, shares = problem()
    widened = torch.cat([shares, torch.zeros(60, 1)], dim=1).half()
    cells = Cells(features.half(), widened, tuple((str(i), 20) for i in range(3)))
    found = left_out(start, cells)
    total, losses = 0, []
    for i in range(3):
        rest, held = cells.but([i])
        rows = fit(start, *targets(rest, None))
        seen, truth = targets(held, None)
        total = total + counts(rows.logits(start, seen).argmax(dim=1), truth)
        losses.append(-(truth * (40 * rows.logits(start, seen)).log_softmax(dim=1)).sum(dim=1))
    assert found[1e-4].miou == pytest.approx(miou(total)) and set(found) == {"words", 1e-4, 1e-5}
    assert found[1e-4].loss == pytest.approx(float(torch.cat(losses).mean()), rel=1e-4)


@pytest.mark.parametrize(
    ("words", "plain", "loose", "expected"),
    [
        ((50, 1.0), (60, 0.5), (60.9, 0.4), 1e-4),  # noise
        ((50, 1.0), (60, 0.5), (61.1, 0.6), 1e-5),
        ((50, 1.0), (49, 0.9), (40, 2.0), 1e-4),  # the loss gains
        ((50, 1.0), (51, 1.1), (40, 2.0), 1e-4),  # the mIoU gains
        ((50, 1.0), (50, 1.0), (40, 0.2), "words"),
    ],
)
def test_which_rows_are_taken(words, plain, loose, expected):
    assert chosen({1e-4: Held(*plain), 1e-5: Held(*loose), "words": Held(*words)}) == expected


class TestAdding:
    def test_more_examples_need_no_second_look(self, demo, pictures, masks, labels, tuned, tmp_path, monkeypatch):
        demo.tune(pictures[:3], masks[:3], labels).save(tmp_path / "mine.safetensors")
        kept = Tuned.load(tmp_path / "mine.safetensors")
        kept = dataclasses.replace(kept, cells=Cells.load(cells_path(tmp_path / "mine.safetensors")))
        more = demo.tune(pictures[3:], masks[3:], add=kept)
        assert more.labels == tuned.labels and more.report == tuned.report
        np.testing.assert_array_equal(dict(more.vectors)[0], dict(tuned.vectors)[0])

    def test_a_picture_counts_once(self, demo, pictures, masks, labels):
        wrong = demo.tune(pictures[:1], [np.zeros_like(masks[0])], labels)
        again, right = demo.tune(pictures[:1], masks[:1], add=wrong), demo.tune(pictures[:1], masks[:1], labels)
        np.testing.assert_array_equal(dict(again.vectors)[0], dict(right.vectors)[0])

    def test_more_labels(self, demo, pictures, masks, labels, tuned):
        more = demo.tune([], [], ["comb", *labels], add=tuned)
        assert more.report["pictures"] == {"comb": 0, **tuned.report["pictures"]}
        assert torch.equal(more.cells.shares[:, [1, -1]], tuned.cells.shares[:, [0, -1]])
        with pytest.raises(ShapeError, match=f"show {labels[0]}"):
            demo.tune([], [], labels[1:], add=tuned)

    def test_without_examples(self, demo, pictures, masks, tuned):
        with pytest.raises(LabelError, match="no examples beside"):
            demo.tune(pictures, masks, add=dataclasses.replace(tuned, cells=None))
        with pytest.raises(LabelError, match="no examples were given"):
            demo.tune([], [], ["cat"])


class TestFiles:
    def test_a_file_is_what_was_tuned(self, demo, pictures, tuned, tmp_path):
        tuned.save(tmp_path / "mine.safetensors")
        found = read_labels(tmp_path / "mine.safetensors")
        assert found.report == tuned.report and found.identity() == tuned.identity()
        np.testing.assert_array_equal(demo(pictures[0], found).label_map, demo(pictures[0], tuned).label_map)

    def test_other_settings_are_refused(self, demo, pictures, tuned):
        with pytest.raises(LabelError, match="tuned with other settings: window is 64, and was 96"):
            demo(pictures[0], tuned, window=64, stride=48)
        with pytest.raises(LabelError, match=r"method is NACLIP\(.*std=5.0.*was CorrelativeSelfAttention\("):
            demo.encode(pictures[0], method="naclip").segment(tuned)
        with pytest.raises(LabelError, match="resize_short_side"):
            demo.text_embeddings(tuned, resize_short_side=97)
        demo(pictures[0], tuned, threshold=0.2, logit_scale=30.0)  # on which features do not depend

    def test_another_model_is_refused(self, tuned, pictures):
        other = sp.Segmenter.from_pretrained("demo", device="cpu", cache_dir=False)
        with torch.no_grad():
            for weights in other.tower.trunk.parameters():
                weights.mul_(1.1)
        with pytest.raises(LabelError, match="another model"):
            other(pictures[0], tuned)

    def test_either_precision(self, tuned, demo, pictures):
        half = sp.Segmenter.from_pretrained("demo", device="cpu", cache_dir=False, dtype="bfloat16", templates="plain")
        same = half(pictures[0], tuned).label_map == demo(pictures[0], tuned).label_map
        assert same.mean() > 0.97
        again = half.tune(pictures[:1], [np.zeros((8, 8), int)], ["cat"])
        assert demo(pictures[0], again).labels == ("cat",)

    @pytest.mark.parametrize("content", [b"", b"not one", None])
    def test_broken_files(self, content, tmp_path):
        path = tmp_path / "mine.safetensors"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(LabelError, match="mine.safetensors"):
            read_labels(path)
        with pytest.raises(FileFormatError, match="mine.safetensors"):
            Cells.load(path)

    def test_some_of_the_classes(self, tuned, demo, pictures, labels):
        some = tuned.only([[labels[2]], ["comb", "brush"], [labels[0]]])
        assert some.labels == (labels[2], "comb", labels[0]) and some.class_of_name == (0, 1, 1, 2)
        assert some.constants == (tuned.constants[2], 0.0, tuned.constants[0])
        _, rows = demo.text_embeddings(some)
        expected = [dict(tuned.vectors)[2], *demo.text_embeddings(["comb", "brush"])[1].numpy(), dict(tuned.vectors)[0]]
        np.testing.assert_allclose(rows, np.stack(expected), atol=1e-6)
        with pytest.raises(LabelError, match="none of"):
            tuned.only([["comb"]])


@pytest.mark.parametrize(
    ("mask", "says"),
    [(np.zeros((3, 4, 4), int), "label map"), (np.zeros((4, 4)), "label map"), (np.full((4, 4), 99), "0 to")],
)
def test_masks_that_are_none(mask, says, demo, pictures, labels):
    with pytest.raises(ShapeError, match=says):
        demo.tune(pictures[:1], [mask], labels)


@pytest.mark.parametrize(("shown", "drawn"), [(1, 2), (2, 1)])
def test_a_mask_for_each_picture(shown, drawn, demo, pictures, masks, labels):
    with pytest.raises(ShapeError, match="a mask for each picture"):
        demo.tune(pictures[:shown], masks[:drawn], labels)


def test_labels_that_cannot_be_tuned(demo, pictures, masks, tuned):
    with pytest.raises(LabelError, match="some are vectors"):
        demo.tune(pictures[:1], masks[:1], {"cat": torch.ones(3)})
    with pytest.raises(LabelError, match="no labels"):
        demo.tune(pictures[:1], masks[:1])
    with pytest.raises(LabelError, match="expected others beside it"):
        demo.tune(pictures[:1], masks[:1], ["background"])
    with pytest.raises(LabelError, match="no pixel"):
        demo.tune(pictures[:1], [np.full((4, 4), -1)], ["cat"])
    with pytest.raises(LabelError, match="their own background"):
        demo(pictures[0], tuned, background=True)
