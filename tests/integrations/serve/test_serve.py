"""The server answers what a call answers, to many at once, within its limits."""

import base64
import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

import sclip_plugin as sp

fastapi = pytest.importorskip("fastapi")
from fastapi.testclient import TestClient  # noqa: E402

from sclip_plugin.integrations.serve import Limits, make_server  # noqa: E402


@pytest.fixture(scope="module")
def segmenter():
    return sp.Segmenter.from_pretrained("demo", device="cpu", paths=False)


@pytest.fixture(scope="module")
def client(segmenter):
    with TestClient(make_server(segmenter, Limits(kept=2, megapixels=1, megabytes=1, names=12))) as client:
        yield client


def png(picture):
    file = io.BytesIO()
    picture.save(file, "PNG")
    return {"picture": ("x.png", file.getvalue())}


def masks_of(answer):
    return [coco.decode(coco.frPyObjects(x["mask"], *x["mask"]["size"])).astype(bool) for x in answer["labels"]]


def test_masks_are_those_of_a_call(client):
    scene = sp.draw_scene(seed=3)
    expected = sp.Segmenter.from_pretrained("demo", device="cpu")(scene.picture, list(scene.labels))
    data = {"labels": ",".join(scene.labels)}
    answer = client.post("/segment", files=png(scene.picture), data=data).json()
    for index, mask in enumerate(masks_of(answer)):
        assert np.array_equal(mask, expected.label_map == index)
    assert {x["label"]: x["area"] for x in answer["labels"]} == pytest.approx(expected.areas())
    picture = client.post("/segment", files=png(scene.picture), data={**data, "masks": "png"}).json()["label_map"]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(picture)))), expected.label_map)


def test_an_encoded_picture_is_asked_again_until_newer_ones_replace_it(client):
    scene = sp.draw_scene(seed=3)
    direct = client.post("/segment", files=png(scene.picture), data={"labels": "cat, grass"}).json()
    first, *others = (client.post("/encode", files=png(scene.picture)).json()["id"] for _ in range(3))
    assert client.post(f"/ask/{others[-1]}", data={"labels": "cat, grass"}).json() == direct
    assert client.post(f"/ask/{first}", data={"labels": "cat"}).status_code == 404


def test_many_at_once_get_their_own(client):
    scenes = [sp.draw_scene(seed=seed) for seed in range(6)]

    def asked(index):
        scene = scenes[index % len(scenes)]
        answer = client.post("/segment", files=png(scene.picture), data={"labels": ",".join(scene.labels[:5])})
        return answer.json()

    alone = [asked(index) for index in range(len(scenes))]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(asked, range(24)))
    for index, answer in enumerate(together):
        assert [x["label"] for x in answer["labels"]] == list(scenes[index % 6].labels[:5])
        for one, other in zip(masks_of(answer), masks_of(alone[index % 6]), strict=True):
            assert (one != other).mean() < 1e-3  # another batch, other roundings


@pytest.mark.parametrize(
    ("file", "labels", "status", "said"),
    [
        (b"no picture", "cat", 422, "picture"),
        (b"/etc/passwd", "cat", 422, "picture"),
        (None, " , ", 422, "no names"),
        (None, "a,b,c,d,e,f,g,h,i,j,k,l,m", 422, "12 names"),
        (None, "x" * 101, 422, "100 characters"),
        (Image.new("L", (2000, 1000)), "cat", 422, "2000 x 1000"),
        (b"0" * 2_000_000, "cat", 413, "1 MB"),
    ],
)
def test_what_is_wrong_is_said(client, file, labels, status, said):
    files = {"picture": ("x", file)} if isinstance(file, bytes) else png(file or Image.new("RGB", (64, 64)))
    answer = client.post("/segment", files=files, data={"labels": labels})
    assert answer.status_code == status and said in answer.json()["detail"]


def test_health_and_description(client):
    assert client.get("/health").json()["status"] == "ok"
    assert {"/segment", "/encode", "/ask/{name}"} <= set(client.get("/openapi.json").json()["paths"])
    assert client.get("/docs").status_code == 200
