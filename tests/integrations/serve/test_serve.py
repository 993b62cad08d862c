"""The server answers what a call answers, to many at once, within its limits."""

import base64
import io
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

import sclip_plugin as sp
from sclip_plugin.cli.serve import serve
from sclip_plugin.errors import ModelLoadError

fastapi = pytest.importorskip("fastapi")
from fastapi.testclient import TestClient  # noqa: E402

from sclip_plugin.integrations.serve import Limits, make_server  # noqa: E402
from sclip_plugin.integrations.serve.queueing import Busy, Job, TowerQueue  # noqa: E402


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


class Held:
    """A segmenter that waits until it may answer."""

    def __init__(self, segmenter):
        self.segmenter, self.settings = segmenter, segmenter.settings
        self.begun, self.go, self.together = threading.Event(), threading.Event(), []

    def encode(self, pictures, *arguments, **options):
        self.begun.set()
        assert self.go.wait(60)
        self.together.append(len(pictures))
        return self.segmenter.encode(pictures, *arguments, **options)


def job(segmenter, picture=None):
    return Job(segmenter.settings, picture=picture or sp.draw_scene(seed=1).picture, labels=["cat"])


def test_what_waits_goes_together_what_is_cancelled_does_not_and_more_is_refused(segmenter):
    held = Held(segmenter)
    tower = TowerQueue(held, together=8, waiting=4)
    first = tower.put(job(segmenter))
    assert held.begun.wait(60)
    waiting = [tower.put(job(segmenter)) for _ in range(4)]
    with pytest.raises(Busy, match="4 requests"):
        tower.put(job(segmenter))
    assert waiting[1].cancel()
    held.go.set()
    tower.close()
    assert held.together == [1, 3]
    answers = [first, waiting[0], *waiting[2:]]
    assert {answer.result().labels[0] for answer in answers} == {"cat"}


def test_a_model_that_fails_fails_those_who_asked_and_goes_on(segmenter):
    class Failing(Held):
        def encode(self, pictures, *arguments, **options):
            if not self.together:
                self.together.append(0)
                raise MemoryError("out of memory")
            return self.segmenter.encode(pictures, *arguments, **options)

    tower = TowerQueue(Failing(segmenter))
    with pytest.raises(MemoryError):
        tower.put(job(segmenter)).result(60)
    assert tower.put(job(segmenter)).result(60).labels == ("cat",)
    tower.close()


def test_an_answer_that_does_not_come_in_time_is_504(segmenter):
    held = Held(segmenter)
    with TestClient(make_server(held, Limits(seconds=0.2))) as client:
        answer = client.post("/segment", files=png(sp.draw_scene(seed=1).picture), data={"labels": "cat"})
        held.go.set()
    assert answer.status_code == 504 and "0.2 seconds" in answer.json()["detail"]


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sclip_plugin.integrations.serve", None)
    with pytest.raises(ModelLoadError, match=r"sclip_plugin\[serve\]"):
        serve(model="demo")
