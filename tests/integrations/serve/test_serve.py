"""The server answers what a call answers, to many at once, within its limits."""

import base64
import io
import sys
import threading
import time
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
from sclip_plugin.integrations.serve import Limits, make_server, server  # noqa: E402
from sclip_plugin.integrations.serve.answers import EncodeAnswer, HealthAnswer, SegmentAnswer, TuneAnswer  # noqa: E402
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
    picture = client.post("/segment", files=png(scene.picture), data={**data, "mask_format": "png"}).json()["label_map"]
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


@pytest.mark.parametrize(
    "fields",
    [
        {"labels": ["cat", "sofa|couch", "grass"]},
        {"labels": ["cat, sofa|couch", "grass"]},
        {"labels": '["cat", ["sofa", "couch"], "grass"]'},
        {"labels": ['["cat"]', "sofa|couch, grass"]},
    ],
)
def test_labels_come_in_several_forms(client, fields):
    answer = client.post("/segment", files=png(sp.draw_scene(seed=1).picture), data=fields).json()
    assert [entry["label"] for entry in answer["labels"]] == ["cat", "sofa", "grass"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "'labels' is missing"),
        ({"labels": "cat", "mask_formats": "png"}, "Did you mean 'mask_format'"),
        ({"labels": "cat", "labels[]": "dog"}, "unknown field 'labels[]'"),
        ({"labels": "cat", "masks": "/etc"}, "'masks' is a setting"),
        ({"labels": "cat", "mask_format": ["rle", "png"]}, "'mask_format' is given 2 times"),
        ({"labels": "cat", "mask_format": "svg"}, "mask_format='svg'"),
        ({"labels": '["cat", "dog"'}, "looks like JSON"),
        ({"labels": '{"cat": "kitty"}'}, "looks like JSON"),
        ({"labels": '"cat", "dog"'}, "looks like JSON"),
        ({"labels": "[1, 2]"}, "looks like JSON"),
    ],
)
def test_no_field_is_ignored(client, fields, said):
    answer = client.post("/segment", files=png(Image.new("RGB", (64, 64))), data=fields)
    assert answer.status_code == 422 and said in answer.json()["detail"]


def test_two_pictures_and_fields_in_the_address_are_refused(client):
    file = png(Image.new("RGB", (64, 64)))["picture"]
    answer = client.post("/segment", files=[("picture", file), ("picture", file)], data={"labels": "cat"})
    assert answer.status_code == 422 and "given 2 times" in answer.json()["detail"]
    answer = client.post("/segment?labels=dog", files=[("picture", file)], data={"labels": "cat"})
    assert answer.status_code == 422 and "in the address" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("method", "path", "options", "status"),
    [
        ("POST", "/segment", {"json": {"labels": "cat"}}, 422),
        ("POST", "/segment", {"content": b"--x", "headers": {"content-type": "multipart/form-data"}}, 400),
        ("POST", "/segment", {"data": {"labels": "cat", "picture": "/etc/passwd"}}, 422),
        ("POST", "/ask/none", {"data": {"labels": "cat"}}, 404),
        ("POST", "/encode", {"content": iter([b"a"])}, 411),
        ("GET", "/nothing", {}, 404),
        ("GET", "/segment", {}, 405),
    ],
)
def test_every_refusal_has_one_sentence(client, method, path, options, status):
    answer = client.request(method, path, **options)
    assert answer.status_code == status
    assert isinstance(answer.json()["detail"], str) and answer.json().keys() == {"detail"}


def test_the_description_names_answers_refusals_and_limits(client):
    description = client.get("/openapi.json").json()
    for path, methods in description["paths"].items():
        for operation in methods.values():
            for status, response in operation["responses"].items():
                answer = response["content"]["application/json"]["schema"]["$ref"].rsplit("/", 1)[-1]
                assert (answer == "Refusal") == (status != "200")
            expected = {"200"} if path == "/health" else {"200", "400", "408", "411", "413", "422", "500", "503", "504"}
            assert expected <= set(operation["responses"])
    assert "404" in description["paths"]["/ask/{name}"]["post"]["responses"]
    for limit in ("1 MB", "1 megapixels", "12 names", "20 pictures"):
        assert limit in description["info"]["description"]


def test_answers_have_the_form_that_is_described(client):
    picture = png(sp.draw_scene(seed=1).picture)
    for mask_format in ("rle", "png", "none"):
        answer = client.post("/segment", files=picture, data={"labels": "cat, grass", "mask_format": mask_format})
        assert SegmentAnswer.model_validate(answer.json()).model_dump(exclude_unset=True, mode="json") == answer.json()
    EncodeAnswer.model_validate(client.post("/encode", files=picture).json(), strict=False)
    HealthAnswer.model_validate(client.get("/health").json())


def test_the_page_of_docs_needs_nothing_from_elsewhere(client):
    page = client.get("/docs").text
    assert "POST /segment" in page and "mask_format" in page and "Try it" in page
    assert '<input type="file" name="masks" multiple required>' in page and '<input name="tuned">' in page
    assert "://" not in page and "<script" not in page


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8000", 200),
        ("127.0.0.1", 200),
        ("[::1]:8000", 200),
        ("testserver", 200),  # the address that was connected to
        ("masks.example:80", 200),
        ("evil.example", 400),
        ("localhost.evil.example", 400),
        ("127.0.0.1.evil.example", 400),
        ("192.0.2.1", 400),
        ("[", 400),
        ("", 400),
    ],
)
def test_foreign_hosts_are_refused(segmenter, host, status):
    with TestClient(make_server(segmenter, allow_hosts=["masks.example"])) as client:
        answer = client.get("/health", headers={"host": host})
        assert answer.status_code == status
        assert status == 200 or "--allow-host" in answer.json()["detail"]


def mask_file(label_map, mode="L", kind="PNG"):
    file = io.BytesIO()
    Image.fromarray(label_map.astype(np.uint8)).convert(mode).save(file, kind)
    return ("mask", file.getvalue())


class TestTuning:
    @pytest.fixture(scope="class")
    def scene(self):
        """A scene of whose largest thing the name is not known."""
        return sp.draw_scene(seed=5)

    @pytest.fixture(scope="class")
    def names(self, scene):
        return ["zorbl", *scene.labels[1:]]

    @pytest.fixture(scope="class")
    def learnt(self, client, scene, names):
        files = [("pictures", png(scene.picture)["picture"]), ("masks", mask_file(scene.label_map))]
        answer = client.post("/tune", files=files, data={"labels": ", ".join(names)})
        assert answer.status_code == 200, answer.json()
        return answer.json()

    def test_what_is_learnt_is_what_tune_learns(self, learnt, scene, names, tmp_path):
        assert TuneAnswer.model_validate(learnt).model_dump(mode="json") == learnt
        assert [row["label"] for row in learnt["labels"]] == names and learnt["labels"][0]["pictures"] == 1
        expected = sp.Segmenter.from_pretrained("demo", device="cpu").tune([scene.picture], [scene.label_map], names)
        (tmp_path / "mine.safetensors").write_bytes(base64.b64decode(learnt["file"]))
        found = sp.Tuned.load(tmp_path / "mine.safetensors")
        np.testing.assert_allclose(dict(found.vectors)[0], dict(expected.vectors)[0], atol=1e-4)
        assert found.cells is None and found.report["pictures"] == expected.report["pictures"]

    def test_later_questions_use_it(self, client, learnt, scene, names):
        asked = {"labels": ["comb", *names[::-1]]}
        found = {}
        encoded = client.post("/encode", files=png(scene.picture)).json()["id"]
        for tuned in ({}, {"tuned": learnt["id"]}):
            direct = client.post("/segment", files=png(scene.picture), data={**asked, **tuned}).json()
            assert client.post(f"/ask/{encoded}", data={**asked, **tuned}).json() == direct
            found[bool(tuned)] = masks_of(direct)[-1]
        truth = scene.label_map == 0
        assert found[True][truth].mean() > 0.5 > found[False][truth].mean()
        answer = client.post("/segment", files=png(scene.picture), data={"labels": "cat", "tuned": "none"})
        assert answer.status_code == 404 and "/tune again" in answer.json()["detail"]

    @pytest.mark.parametrize(
        ("masks", "labels", "status", "said"),
        [
            ([], "cat", 422, "masks"),
            ([(0, "L", "PNG")] * 2, "cat", 422, "1 pictures and 2 masks"),
            ([(7, "L", "PNG")], "cat, dog", 422, "the mask of x.png holds [7]; expected places of the labels, 0 to 1"),
            ([(0, "RGB", "PNG")], "cat", 422, "mode RGB"),
            ([(0, "L", "JPEG")], "cat", 422, "mask 'the mask of x.png' is a JPEG"),
            ([(255, "L", "PNG")], "cat", 422, "no pixel of the examples"),
            ([(0, "L", "PNG")], "background", 422, "expected others beside it"),
            ([(0, "L", "PNG")], "a,b,c,d,e,f,g,h,i,j,k,l,m", 422, "12 names"),
        ],
    )
    def test_what_is_refused(self, client, masks, labels, status, said):
        picture = png(Image.new("RGB", (64, 48)))["picture"]
        drawn = [("masks", mask_file(np.full((48, 64), value), mode, kind)) for value, mode, kind in masks]
        answer = client.post("/tune", files=[("pictures", picture), *drawn], data={"labels": labels})
        assert answer.status_code == status and said in answer.json()["detail"]

    def test_limits(self, segmenter):
        limits = Limits(examples=2, examples_megapixels=0.01, kept=1)
        picture, mask = png(Image.new("RGB", (64, 48)))["picture"], mask_file(np.zeros((48, 64)))
        with TestClient(make_server(segmenter, limits)) as client:

            def tune(count):
                files = [("pictures", picture), ("masks", mask)] * count
                return client.post("/tune", files=files, data={"labels": "cat"})

            assert "at most 2 of both" in tune(3).json()["detail"]
            assert "12,288 pixels; expected at most 0.01 million" in tune(2).json()["detail"]
            first, second = (tune(1).json()["id"] for _ in range(2))
            asked = [
                client.post("/segment", files={"picture": picture}, data={"labels": "cat", "tuned": name}).status_code
                for name in (first, second)
            ]
        assert asked == [404, 200]


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


def test_a_method_that_reads_the_words_gets_them(segmenter):
    """ResCLIP corrects attention by the words' own labels, so its pictures can't be encoded before the words."""
    asked = Job(segmenter.settings.changed(method="resclip"), sp.draw_scene(seed=1).picture, labels=["cat", "dog"])
    tower = TowerQueue(segmenter)
    found = tower.put(asked).result(60)
    tower.close()
    expected = segmenter(asked.picture, asked.labels, asked.settings)
    np.testing.assert_array_equal(found.label_map, expected.label_map)


def test_an_answer_that_does_not_come_in_time_is_504(segmenter):
    held = Held(segmenter)
    with TestClient(make_server(held, Limits(seconds=0.2))) as client:
        answer = client.post("/segment", files=png(sp.draw_scene(seed=1).picture), data={"labels": "cat"})
        held.go.set()
    assert answer.status_code == 504 and "0.2 seconds" in answer.json()["detail"]


def test_pictures_are_decoded_one_after_the_other_if_their_pixels_are_many(segmenter, monkeypatch):
    decoded, most, lock = [], [], threading.Lock()

    def counted(data, bounds):
        with lock:
            decoded.append(data)
            most.append(len(decoded))
        time.sleep(0.02)
        return original(data, bounds)

    original = server.picture_of
    monkeypatch.setattr(server, "picture_of", counted)
    tower = server.TowerQueue.put

    def put(self, job):
        answer = tower(self, job)
        answer.add_done_callback(lambda _: decoded.pop())
        return answer

    monkeypatch.setattr(server.TowerQueue, "put", put)
    picture = png(sp.draw_scene(seed=1, size=(100, 100)).picture)
    for megapixels, expected in ((0.01, 1), (0.02, 2), (0.005, 1)):
        most.clear()
        with TestClient(make_server(segmenter, Limits(decoded_megapixels=megapixels))) as client:

            def ask(_, client=client):
                return client.post("/segment", files=picture, data={"labels": "cat"}).status_code

            with ThreadPoolExecutor(8) as pool:
                assert set(pool.map(ask, range(8))) == {200}
        assert max(most) == expected


def test_too_many_waiting_pixels_are_refused(segmenter):
    held = Held(segmenter)
    picture = png(sp.draw_scene(seed=1, size=(100, 100)).picture)
    with TestClient(make_server(held, Limits(decoded_megapixels=0.01, waiting_megapixels=0.02))) as client:
        with ThreadPoolExecutor(8) as pool:
            answers = [pool.submit(client.post, "/encode", files=picture) for _ in range(6)]
            assert held.begun.wait(60)
            while sum(answer.done() for answer in answers) < 3:
                time.sleep(0.01)
            held.go.set()
    statuses = sorted(answer.result().status_code for answer in answers)
    assert statuses == [200, 200, 200, 503, 503, 503]


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sclip_plugin.integrations.serve", None)
    with pytest.raises(ModelLoadError, match=r"sclip_plugin\[serve\]"):
        serve(model="demo")


def test_names_are_those_of_a_call(client, segmenter):
    scene = sp.draw_scene(seed=2001)
    own = sp.Segmenter.from_pretrained("demo", device="cpu")
    answer = client.post("/names", files=png(scene.picture), data={"top": "3"}).json()["names"]
    expected = own.names(scene.picture, top=3)
    assert [(n["word"], n["synonyms"]) for n in answer] == [(n.word, list(n.synonyms)) for n in expected]
    data = {"labels": ["@auto", ",".join(scene.labels)]}
    found = client.post("/names", files=png(scene.picture), data=data).json()["names"]
    assert {name["word"] for name in found} == set(scene.labels)
    segmented = client.post("/segment", files=png(scene.picture), data={"labels": "@auto, zebra"}).json()["labels"]
    assert segmented[0]["label"] == "zebra" and segmented[0]["presence"] < 0.5
    assert {n.word for n in own.names(scene.picture)} == {label["label"] for label in segmented[1:]}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"labels": "cat"}, "expected '@auto'"),
        ({"labels": "@auto:/etc/hosts"}, "whoever started the server"),
        ({"top": "0"}, "top"),
        ({"preset": "x"}, "preset"),
    ],
)
def test_names_that_are_refused(client, data, said):
    answer = client.post("/names", files=png(Image.new("RGB", (40, 30))), data=data)
    assert answer.status_code == 422 and said in answer.json()["detail"]
    answer = client.post("/segment", files=png(Image.new("RGB", (40, 30))), data={"labels": "@auto:/etc/hosts"})
    assert answer.status_code == 422 and "whoever started" in answer.json()["detail"]


def test_lists_that_the_starter_named_are_read(tmp_path):
    from sclip_plugin.cli.listening import allow_lists
    from sclip_plugin.errors import LabelError

    (tmp_path / "own.txt").write_text("sky\nsand\ngrass")
    segmenter = sp.Segmenter.from_pretrained("demo", device="cpu", paths=False)
    with pytest.raises(LabelError, match=r"gone\.txt"):
        allow_lists(segmenter, [str(tmp_path / "gone.txt")])
    allow_lists(segmenter, [str(tmp_path / "own.txt")])
    with TestClient(make_server(segmenter)) as client:
        data = {"labels": f"@auto:{tmp_path / 'own.txt'}"}
        scene = next(s for s in map(sp.draw_scene, range(50)) if "sky" in s.labels)
        found = client.post("/names", files=png(scene.picture), data=data).json()["names"]
    assert "sky" in {name["word"] for name in found} <= {"sky", "sand", "grass"}
