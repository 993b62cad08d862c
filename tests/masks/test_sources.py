"""Where masks come from: superpixels, files, models of transformers; and what is kept of them."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import sam3_golden
import torch
from outside_models import transformers_model
from PIL import Image

import sclip_plugin as sp
from sclip_plugin.errors import (
    ArgumentTypeError,
    FileFormatError,
    ModelLoadError,
    PictureError,
    PictureNotFoundError,
    SettingError,
    ShapeError,
    UnknownNameError,
)
from sclip_plugin.masks import MASK_SOURCES, MaskSource, find_masks, list_mask_sources, masks_of, register_mask_source
from sclip_plugin.masks.folder import read_masks

SCENE = sp.draw_scene(seed=2)
MASKS = np.stack([SCENE.label_map == i for i in range(len(SCENE.labels))])


def test_superpixels_cover_the_picture_and_follow_its_edges():
    ids = masks_of(find_masks("slic(segments=150)"), SCENE.picture)
    assert ids.shape == SCENE.label_map.shape and ids.min() >= 1 and 75 < len(np.unique(ids)) < 250
    majority = sum(np.bincount(SCENE.label_map[ids == i]).max() for i in np.unique(ids)) / ids.size
    squares = (np.arange(ids.shape[0])[:, None] // 14) * 100 + np.arange(ids.shape[1]) // 14
    assert majority > sum(np.bincount(SCENE.label_map[squares == i]).max() for i in np.unique(squares)) / ids.size


def write(path, masks):
    ids = SCENE.label_map + 1
    if path.suffix == ".json":
        from pycocotools import mask as coco

        entries = [coco.encode(np.asfortranarray(m.astype(np.uint8))) for m in masks]
        entries = [{"segmentation": {**e, "counts": e["counts"].decode()}} for e in entries]
        path.write_text(json.dumps(entries if "list" in path.stem else {"annotations": entries}))
    elif path.suffix == ".npz":
        np.savez(path, instance_mask=ids, other=1)
    elif path.suffix == ".npy":
        np.save(path, masks)
    else:
        Image.fromarray(ids.astype(np.uint8) if "8" in path.stem else ids.astype(np.uint16) * 300).save(path)


@pytest.mark.parametrize("name", ["a.npz", "a.npy", "a8.png", "a16.png", "a.json", "list.json"])
def test_files_of_masks(name, tmp_path):
    (tmp_path / "masks").mkdir()
    write(tmp_path / "masks" / name, MASKS)
    masks = read_masks(tmp_path / "masks" / name)
    seen = masks if masks.ndim == 3 else np.stack([masks == i for i in np.unique(masks)])
    np.testing.assert_array_equal(seen, MASKS)
    picture = tmp_path / f"{name.partition('.')[0]}.jpg"
    SCENE.picture.save(picture)
    seg = sp.Segmenter.from_pretrained("demo", cache_dir=False)
    corrected = seg(str(picture), list(SCENE.labels), masks=str(tmp_path / "masks"), steps="vote")
    for mask in MASKS:
        assert len(np.unique(corrected.label_map[mask])) == 1


@pytest.mark.parametrize("seed", range(20))
def test_run_lengths_are_pycocotools_own(seed, tmp_path):
    from pycocotools import mask as coco

    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 60, 2)
    masks = np.asfortranarray(rng.random((height, width, 3)) < rng.random(), dtype=np.uint8)
    entries = [{**entry, "counts": entry["counts"].decode()} for entry in coco.encode(masks)]
    (tmp_path / "a.json").write_text(json.dumps(entries))
    np.testing.assert_array_equal(read_masks(tmp_path / "a.json"), masks.transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.npz", b"PK", "no masks that can be read"),
        ("a.json", b"[]", "it has no masks"),
        ("a.json", b'[{"segmentation": {"size": [2, 2]}}]', "no masks that can be read"),
        ("a.json", b'[{"size": [2, 2], "counts": [1, 2]}]', "no run lengths of 2 x 2"),
        ("a.json", b'[{"size": [2, 2], "counts": [5, -1]}]', "no run lengths of 2 x 2"),
        ("a.json", b'[{"size": [100000, 100000], "counts": [10000000000]}]', "above the limit"),
        ("a.json", b'[{"size": [2, 2], "counts": "0 4"}]', "' ' stands in no COCO run lengths"),
        ("a.png", b"GIF", "no masks that can be read"),
    ],
)
def test_files_that_hold_none(name, content, said, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FileFormatError, match=said):
        read_masks(tmp_path / name)


def test_a_colour_picture_is_no_id_map(tmp_path):
    SCENE.picture.save(tmp_path / "a.png")
    with pytest.raises(FileFormatError, match="mode RGB"):
        read_masks(tmp_path / "a.png")


def test_an_id_map_is_turned_as_its_picture_is(tmp_path):
    """The camera's orientation, kept by a tool that drew the map on the stored pixels."""
    ids, exif = np.arange(6, dtype=np.uint8).reshape(2, 3), Image.Exif()
    exif[0x0112] = 6  # a quarter to the right
    Image.fromarray(ids).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_masks(tmp_path / "a.png"), np.rot90(ids, -1))


def test_a_folder_needs_names_and_their_files(tmp_path):
    source = find_masks(str(tmp_path))
    with pytest.raises(PictureError, match="give its path"):
        masks_of(source, SCENE.picture)
    SCENE.picture.save(tmp_path / "b.jpg")
    with pytest.raises(PictureNotFoundError, match=r"b\.png, b\.npz"):
        seg = sp.Segmenter.from_pretrained("demo", cache_dir=False)
        seg(tmp_path / "b.jpg", ["cat"], masks=str(tmp_path), steps="vote")


@pytest.fixture(scope="module")
def sam(tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("sam")
    model = transformers_model("sam")
    model.save_pretrained(folder)
    transformers.SamProcessor(transformers.SamImageProcessor()).save_pretrained(folder)
    return folder


def test_automatic_masks_of_sam(sam):
    source = find_masks(f"sam:{sam}")
    few = dataclasses.replace(source, points=2, pred_iou_thresh=0.0, stability_score_thresh=0.0)
    masks = few(SCENE.picture.resize((96, 64)))
    assert masks.dtype == bool and masks.ndim == 3 and masks.shape[1:] == (64, 96)


@pytest.mark.filterwarnings("ignore:Overwriting tiny_vit:UserWarning")
def test_automatic_masks_of_mobile_sam(tmp_path):
    mobile_sam = pytest.importorskip("mobile_sam")
    torch.manual_seed(0)
    torch.save(mobile_sam.sam_model_registry["vit_t"]().state_dict(), tmp_path / "mobile_sam.pt")
    source = find_masks(f"mobile_sam:{tmp_path / 'mobile_sam.pt'}")
    few = dataclasses.replace(source, points=2, pred_iou_thresh=0.0, stability_score_thresh=0.0)
    masks = few(SCENE.picture.resize((96, 64)))
    assert masks.dtype == bool and masks.ndim == 3 and masks.shape[1:] == (64, 96)
    (tmp_path / "other.pt").write_bytes(b"no weights")
    with pytest.raises(ModelLoadError, match=r"other\.pt' could not be read; expected its mobile_sam\.pt"):
        find_masks(f"mobile_sam:{tmp_path / 'other.pt'}")(SCENE.picture)


@pytest.fixture(scope="module")
def mask2former(tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("panoptic")
    torch.manual_seed(0)
    backbone = transformers.SwinConfig(
        image_size=64, embed_dim=16, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = transformers.Mask2FormerConfig(
        backbone_config=backbone, hidden_dim=32, feature_size=32, mask_feature_size=32, num_attention_heads=2,
        encoder_layers=1, decoder_layers=2, dim_feedforward=16, encoder_feedforward_dim=16, num_queries=4, num_labels=3,
    )  # fmt: skip
    transformers.Mask2FormerForUniversalSegmentation(config).save_pretrained(folder)
    transformers.Mask2FormerImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


def test_segments_of_a_panoptic_model(mask2former):
    ids = masks_of(find_masks(f"panoptic:{mask2former}"), SCENE.picture)
    assert ids.shape == SCENE.label_map.shape and ids.dtype == np.int32 and ids.min() >= 0


def test_instances_of_sam3_are_those_of_a_segmenter(tmp_path):
    folder = sam3_golden.saved(tmp_path)
    seg = sp.Segmenter.from_pretrained(folder, device="cpu", method="sam3(conf=0.15)")
    found = [item for word in ("cat", "dog") for item in seg(SCENE.picture, [word]).instances()]
    masks = find_masks(f"sam3:{folder}('cat, , dog', conf=0.15)")(SCENE.picture)
    assert len(masks) == len(found) > 1
    ours = sorted(mask.sum() for mask in masks)
    # transformers resizes probabilities, the segmenter logits: the edges of a mask differ by a few pixels.
    np.testing.assert_allclose(ours, sorted(item.area for item in found), rtol=0.1, atol=40)
    assert len(find_masks(f"sam3:{folder}('cat', conf=1.0)")(SCENE.picture)) == 0
    demo = sp.Segmenter.from_pretrained("demo")
    voted = demo(SCENE.picture, ["crab", "sky"], masks=f"sam3:{folder}('cat', conf=0.15)", steps="vote")
    assert voted.label_map.shape == SCENE.label_map.shape


def test_sam3_without_words_is_refused():
    with pytest.raises(SettingError, match="need words"):
        find_masks("sam3:folder")


def test_a_model_that_is_not_there_is_said(tmp_path):
    for kind, words in (("sam", ""), ("panoptic", ""), ("sam3", "('cat')")):
        with pytest.raises(ModelLoadError, match="the mask model"):
            find_masks(f"{kind}:{tmp_path}{words}")(SCENE.picture)


CALLS: list[str] = []


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counted(MaskSource):
    form: str = "ids"
    weights: str = ""

    def __call__(self, picture):
        CALLS.append(self.form)
        ids = (np.arange(picture.height)[:, None] > picture.height // 2) + np.ones((1, picture.width), np.int64)
        return {"ids": ids, "masks": np.stack([ids == 1, ids >= 1]), "wrong": ids[1:]}[self.form]


@pytest.fixture
def counted(monkeypatch, tmp_path):
    CALLS.clear()
    monkeypatch.setattr(MASK_SOURCES, "_classes", dict(MASK_SOURCES._classes))
    monkeypatch.setattr("sclip_plugin.masks.registry.cache_root", lambda: tmp_path)
    register_mask_source("counted")(Counted)


@pytest.mark.parametrize("form", ["ids", "masks"])
def test_what_a_model_gave_is_kept(form, counted):
    source = Counted(form=form)
    first, second = masks_of(source, SCENE.picture), masks_of(source, SCENE.picture)
    np.testing.assert_array_equal(first, second)
    assert first.dtype == second.dtype and CALLS == [form]
    masks_of(source, SCENE.picture.rotate(180))
    assert CALLS == [form, form]


def test_other_weights_under_the_same_name_are_other_masks(counted, tmp_path):
    weights = tmp_path / "model.pt"
    for content, calls in ((b"1", 1), (b"1", 1), (b"22", 2)):
        if not weights.exists() or weights.read_bytes() != content:
            weights.write_bytes(content)
        masks_of(Counted(weights=str(weights)), SCENE.picture)
        assert len(CALLS) == calls


def test_masks_of_another_size_are_refused(counted):
    with pytest.raises(ShapeError, match="the masks of counted have shape"):
        masks_of(Counted(form="wrong"), SCENE.picture)


def test_names_are_checked_early():
    assert {"slic", "sam", "panoptic", "folder"} <= set(list_mask_sources())
    with pytest.raises(UnknownNameError, match="Did you mean 'slic'"):
        sp.Settings(masks="slik")
    with pytest.raises(SettingError, match="segments=0"):
        sp.Settings(masks="slic(segments=0)")
    with pytest.raises(ArgumentTypeError, match="mask_vote"):
        sp.Settings(masks=np.ones((3, 3), int))
    assert sp.Settings(masks=find_masks("slic")).masks == "slic"
    assert sp.Settings(masks="slic").identity() != sp.Settings().identity()


def test_a_value_after_the_colon_is_the_first_option():
    assert find_masks("slic:300").segments == 300
    with pytest.raises(SettingError, match="segments"):
        find_masks("slic:many")
