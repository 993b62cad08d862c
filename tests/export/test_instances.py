"""The things in a label map, and what they are given to."""

import json

import numpy as np
import pytest
import shapely

import sclip_plugin as sp
from sclip_plugin.export.instances import bridged, parts_of, without_holes

from .pictures import LABELS, MAPS, blobs, masks, result, rings


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("regions", ["components", "classes"])
def test_together_they_are_the_label_map(name, regions):
    things = result(MAPS[name]).instances(regions)
    got = np.zeros((len(LABELS), *MAPS[name].shape), int)
    for thing in things:
        got[thing.index] += thing.full_mask()
        assert thing.area == thing.full_mask().sum() and thing.label == LABELS[thing.index]
    assert (got == masks(MAPS[name])).all()
    assert [thing.area for thing in things] == sorted((thing.area for thing in things), reverse=True)


def test_regions_that_only_touch_at_a_corner_are_two():
    things = sp.Segmentation(["a"], np.array([[0, -1], [-1, 0]])).instances()
    assert things.boxes().tolist() == [[0, 0, 1, 1], [1, 1, 2, 2]]


def test_small_ones_are_left_out():
    made = result(MAPS["specks"])
    assert [thing.area for thing in made.instances(min_area=4)] == [40, 20, 4]
    assert len(made.instances(min_area=41)) == 0 and made.instances(min_area=41).boxes().shape == (0, 4)


def test_scores_are_means_over_the_pixels():
    made = result(blobs())
    for thing in made.instances():
        assert thing.score == pytest.approx(made.scores[thing.index][thing.full_mask()].mean(), rel=1e-5)
    assert sp.Segmentation(LABELS, blobs()).instances()[0].score is None


@pytest.mark.parametrize("name", MAPS)
def test_outlines_have_the_area_of_the_pixels(name):
    for thing, shape in zip(things := result(MAPS[name]).instances(), things.polygons(0), strict=True):
        assert shape.is_valid and shape.area == thing.area and shape.bounds == thing.box
        assert sum(piece.area for piece in without_holes(shape)) == pytest.approx(thing.area)
        assert (thing.contour[0] == thing.contour[-1]).all()


def test_shared_borders_stay_shared():
    shapes = result(blobs(), scores=False).instances("classes").polygons()
    parts = [part for shape in shapes for part in parts_of(shape)]
    assert all(part.is_valid for part in parts)
    assert sum(part.area for part in parts) == pytest.approx(shapely.union_all(parts).area)  # none overlap
    exact = sum(shape.area for shape in result(blobs()).instances("classes").polygons(0))
    assert sum(part.area for part in parts) == pytest.approx(exact, rel=0.01)  # and no gaps


def test_holes_are_cut_out_or_bridged():
    (ring,) = [thing for thing in result(rings()).instances() if thing.label == LABELS[1] and thing.area > 1000]
    pieces = without_holes(ring.polygon)
    assert len(pieces) == 2 and not any(piece.interiors for piece in pieces)
    ((outer, hole),) = ring.rings()
    joined = bridged([outer, hole])
    assert len(joined) == len(outer) + len(hole) + 2 and (joined[0] == outer[0]).all()


def test_supervision_takes_them():
    made = result(blobs())
    detections = made.to_supervision()
    things = made.instances()
    assert len(detections) == len(things) and list(detections["class_name"]) == [thing.label for thing in things]
    assert (detections.mask[3] == things[3].full_mask()).all() and (detections.area == [t.area for t in things]).all()
    np.testing.assert_array_equal(detections.xyxy, things.boxes())
    assert detections.confidence == pytest.approx([thing.score for thing in things])
    assert sp.Segmentation(LABELS, blobs()).to_supervision().confidence is None
    assert len(made.instances(min_area=10**6).to_supervision()) == 0


def test_fiftyone_takes_them():
    pytest.importorskip("fiftyone")
    made = result(blobs())
    for detection, thing in zip(made.to_fiftyone().detections, made.instances(), strict=True):
        assert detection.label == thing.label and (detection.mask == thing.mask).all()
        left, top, width, height = detection.bounding_box
        assert (left * 200, top * 150) == pytest.approx(thing.box[:2]) and width * 200 == pytest.approx(
            thing.box[2] - thing.box[0]
        )


def test_presence_is_a_score_where_formats_have_a_place(tmp_path):
    made = sp.Segmentation(LABELS, blobs(), scores=np.full((5, 15, 20), 0.25), presence={LABELS[0]: 0.75})
    things = made.instances("classes")
    said = {thing.label: thing.presence for thing in things}
    assert said[LABELS[0]] == 0.75 and said[LABELS[1]] is None
    detections = made.to_supervision()
    known = detections.data["presence"][detections.class_id == 0]
    assert (known == 0.75).all() and np.isnan(detections.data["presence"][detections.class_id == 1]).all()
    assert "presence" not in result(blobs()).to_supervision().data
    coco = json.loads(made.export(tmp_path / "coco", "coco")[0].read_text())
    scores = {each["category_id"]: each.get("score") for each in coco["annotations"]}
    assert scores[1] == 0.75 and scores[2] is None
    geojson = json.loads(made.export(tmp_path / "map.geojson", "geojson")[0].read_text())
    found = {each["properties"]["index"]: each["properties"].get("presence") for each in geojson["features"]}
    assert found[0] == 0.75 and found[1] is None
    (tasks, _) = made.export(tmp_path / "ls", "labelstudio")
    (prediction,) = json.loads(tasks.read_text())[0]["predictions"]
    by_label = {each["value"]["brushlabels"][0]: each["score"] for each in prediction["result"]}
    assert by_label[LABELS[0]] == 0.75 and by_label[LABELS[1]] == 0.25
