"""The pipeline gives what the segmenter gives, in the forms of transformers' own pipelines."""

import base64
import copy
import http.server
import pickle
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel, CLIPVisionModel, pipeline
from transformers.pipelines.pt_utils import KeyDataset

import sclip_plugin as sp
from sclip_plugin.errors import LabelError, PictureError, SettingError, UnknownNameError, UnsupportedModelError

TASK = "zero-shot-segmentation"
LABELS = ["cat", "remote control", "sofa"]


@pytest.fixture(scope="module")
def module_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def pipe(folder, module_cache):
    return pipeline(TASK, model=str(folder), hypothesis_template="a photo of a {}.")


@pytest.fixture
def expected(pipe, pictures):
    """What the segmenter says of each picture, as the pipeline puts it."""
    return [as_masks(result) for result in pipe.segmenter.stream(pictures, LABELS)]


def as_masks(result):
    scores = result.mean_scores()
    return [
        {"label": label, "score": scores[label], "mask": result.mask(label).astype(np.uint8) * 255}
        for label in sorted(scores, key=lambda label: -scores[label])
    ]


def assert_same(found, expected):
    assert [e["label"] for e in found] == [e["label"] for e in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours["score"] == pytest.approx(theirs["score"], rel=1e-4)
        # Batches of another size round otherwise, so a pixel on an edge may change sides.
        assert (np.asarray(ours["mask"]) == theirs["mask"]).mean() > 0.999


class Pictures(torch.utils.data.Dataset):
    def __init__(self, entries):
        self.entries = entries

    def __len__(self):
        return len(self.entries)

    def __getitem__(self, index):
        return self.entries[index]


# ---- what comes out


def test_masks(pipe, pictures, expected):
    found = pipe(pictures[0], candidate_labels=LABELS)
    assert_same(found, expected[0])
    assert len(found) > 1, "the tiny model must find several labels, or this test shows nothing"
    assert [e["score"] for e in found] == sorted((e["score"] for e in found), reverse=True)
    for entry in found:
        assert entry["mask"].mode == "L"
        assert entry["mask"].size == Image.open(pictures[0]).size
        assert set(np.unique(entry["mask"])) <= {0, 255}
        assert type(entry["score"]) is float
    assert (sum(np.asarray(e["mask"]) // 255 for e in found) == 1).all(), "each pixel carries one label"


def test_a_picture_that_was_encoded_answers_as_it_does_itself(pipe, pictures, monkeypatch):
    asked = pipe(pictures[0], candidate_labels=LABELS, output="semantic")
    encoded = pipe.encode(pictures[0], dtype=torch.float32)
    both = pipe.encode(pictures[:2])
    tower = pipe.segmenter.tower
    monkeypatch.setattr(tower, "embed", lambda *arguments: pytest.fail("the tower ran again"))
    again = pipe(encoded, candidate_labels=LABELS, output="semantic")
    np.testing.assert_array_equal(again["label_map"], asked["label_map"])
    assert [found["labels"] for found in pipe(both, candidate_labels=["a", "b"], output="semantic")] == [["a", "b"]] * 2


def test_semantic(pipe, pictures):
    found = pipe(pictures[2], candidate_labels=LABELS, output="semantic")
    assert found["labels"] == LABELS
    np.testing.assert_array_equal(found["label_map"], pipe.segmenter(pictures[2], LABELS).label_map)


def test_threshold_leaves_pixels_to_no_label(pipe, pictures):
    sure = pipe(pictures[0], candidate_labels=LABELS, threshold=0.9)
    everything = pipe(pictures[0], candidate_labels=LABELS)
    covered = [sum(np.asarray(e["mask"], dtype=bool).sum() for e in found) for found in (sure, everything)]
    assert covered[0] < covered[1]
    assert pipe(pictures[0], candidate_labels=LABELS, threshold=0.99, logit_scale=1.0) == []


# ---- what goes in


def test_forms_of_a_picture(pipe, pictures, expected):
    path = Path(pictures[0])
    encoded = base64.b64encode(path.read_bytes()).decode()
    picture = Image.open(path)
    forms = [path, picture, np.asarray(picture), encoded, "data:image/png;base64," + encoded]
    for form in forms:
        assert_same(pipe(form, candidate_labels=LABELS), expected[0])


def test_url_and_timeout(pipe, pictures, expected):
    folder = Path(pictures[0]).parent

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def log_message(self, *args):
            pass

        def do_GET(self):
            if self.path.startswith("/slow"):
                release.wait(10)
            else:
                super().do_GET()

    release = threading.Event()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    try:
        assert_same(pipe(f"{address}/{Path(pictures[0]).name}", candidate_labels=LABELS), expected[0])
        with pytest.raises(Exception, match="(?i)timed? ?out"):
            pipe(f"{address}/slow.png", candidate_labels=LABELS, timeout=0.05)
    finally:
        release.set()
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("form", ["list", "tuple", "generator", "data set", "key data set", "dicts"])
def test_many_pictures(pipe, pictures, expected, form, batch_size, num_workers):
    if form == "generator" and num_workers:
        num_workers = 1  # transformers allows no more
    inputs = {
        "list": pictures,
        "tuple": tuple(pictures),
        "generator": (path for path in pictures),
        "data set": Pictures(pictures),
        "key data set": KeyDataset(Pictures([{"image": path, "other": 1} for path in pictures]), "image"),
        "dicts": [{"image": path, "candidate_labels": LABELS} for path in pictures],
    }[form]
    labels = None if form == "dicts" else LABELS
    found = list(pipe(inputs, candidate_labels=labels, batch_size=batch_size, num_workers=num_workers))
    assert len(found) == len(pictures)
    for ours, theirs in zip(found, expected, strict=True):
        assert_same(ours, theirs)


def test_a_generator_is_read_as_results_are_asked_for(pipe, pictures):
    read = []

    def endless():
        while True:
            read.append(len(read))
            yield pictures[0]

    results = iter(pipe(endless(), candidate_labels=LABELS))
    next(results), next(results)
    assert len(read) <= 3


def test_no_pictures_are_no_results(pipe):
    assert pipe([], candidate_labels=LABELS) == []


def test_image_by_name(pipe, pictures, expected):
    assert_same(pipe(image=pictures[0], candidate_labels=LABELS), expected[0])
    assert_same(pipe(images=pictures[:1], candidate_labels=LABELS)[0], expected[0])


def test_labels_between_commas(pipe, pictures, expected):
    assert_same(pipe(pictures[0], "cat, remote control,sofa"), expected[0])


@pytest.mark.parametrize("labels", [["cat", ["sofa", "couch"]], {"cat": "cat", "sofa": ["sofa", "couch"]}])
def test_synonyms(pipe, pictures, labels):
    found = pipe(pictures[0], candidate_labels=labels, output="semantic")
    expected = pipe.segmenter(pictures[0], ["cat", ["sofa", "couch"]])
    assert found["labels"] == ["cat", "sofa"]
    np.testing.assert_array_equal(found["label_map"], expected.label_map)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_own_labels_for_each_picture(pipe, pictures, batch_size):
    own = [["cat", "sofa"], ["dog", ["road", "street"]], ["dog", ["road", "street"]], ["sky", "tree", "cat"]]
    found = pipe(pictures, candidate_labels=own, output="semantic", batch_size=batch_size)
    for picture, labels, result in zip(pictures, own, found, strict=True):
        expected = pipe.segmenter(picture, labels)
        assert tuple(result["labels"]) == expected.labels
        assert (result["label_map"] == expected.label_map).mean() > 0.999


def test_as_many_lists_of_labels_as_pictures(pipe, pictures):
    with pytest.raises(LabelError, match="4 pictures were given with 2 lists"):
        pipe(pictures, candidate_labels=[["cat", "kitten"], ["sofa", "couch"]])


# ---- parameters


@pytest.mark.parametrize(
    ("parameters", "settings"),
    [
        ({"hypothesis_template": "itap of the {}."}, {"templates": "itap of the {}."}),
        ({"hypothesis_template": ["itap of the {}.", "a {}."]}, {"templates": ["itap of the {}.", "a {}."]}),
        ({"background": True}, {"background": True}),
        ({"method": "clearclip"}, {"method": "clearclip"}),
        ({"method": "naclip", "std": 2.0}, {"method": "naclip", "std": 2.0}),
        ({"window": 0}, {"window": 0}),
        ({"window": 48, "stride": 16}, {"window": 48, "stride": 16}),
        ({"refine": True}, {"steps": "pamr, specks"}),
        ({"refine": "pamr(steps=2)"}, {"steps": "pamr(steps=2)"}),
        ({"refine": False}, {"steps": ()}),
        ({"masks": "slic(segments=20)", "steps": "vote"}, {"masks": "slic(segments=20)", "steps": "vote"}),
        ({"resize_short_side": 128, "logit_scale": 20.0}, {"resize_short_side": 128, "logit_scale": 20.0}),
    ],
)
def test_parameters_are_the_segmenters_settings(folder, pipe, pictures, parameters, settings):
    expected = pipe.segmenter(pictures[1], LABELS, **settings)
    found = pipe(pictures[1], candidate_labels=LABELS, output="semantic", **parameters)
    assert tuple(found["labels"]) == expected.labels
    np.testing.assert_array_equal(found["label_map"], expected.label_map)

    as_defaults = pipeline(
        TASK, model=str(folder), **{"hypothesis_template": "a photo of a {}.", "output": "semantic", **parameters}
    )
    found = as_defaults(pictures[1], candidate_labels=LABELS)
    np.testing.assert_array_equal(found["label_map"], expected.label_map)


def test_parameters_at_construction_are_defaults_of_calls(folder, pictures):
    pipe = pipeline(TASK, model=str(folder), candidate_labels=LABELS, method="naclip", std=2.0, batch_size=2)
    assert pipe.segmenter.settings.method == "naclip(std=2.0)"
    assert pipe(pictures[0], output="semantic")["labels"] == LABELS
    # Another method takes none of the first one's options along.
    assert pipe(pictures[0], method="csa", candidate_labels=["cat", "dog"], output="semantic")["labels"] == [
        "cat",
        "dog",
    ]
    assert len(pipe(pictures)) == len(pictures)


def test_the_text_bank_is_computed_once(folder, pictures, monkeypatch):
    pipe = pipeline(TASK, model=str(folder), hypothesis_template="a {}.")
    tower = pipe.segmenter.text_bank.tower
    encoded = []
    encode = tower.encode
    monkeypatch.setattr(tower, "encode", lambda tokens: encoded.append(len(tokens)) or encode(tokens))
    for _ in range(3):
        pipe(pictures, candidate_labels=LABELS, batch_size=2)
        list(pipe((path for path in pictures), candidate_labels=LABELS))
        pipe(pictures[0], candidate_labels=LABELS)
    assert encoded == [3]


# ---- models


def test_a_model_in_hand(folder, pipe, pictures, expected):
    in_hand = pipeline(
        TASK,
        model=CLIPModel.from_pretrained(folder),
        tokenizer=AutoTokenizer.from_pretrained(folder),
        image_processor=AutoImageProcessor.from_pretrained(folder),
        hypothesis_template="a photo of a {}.",
    )
    assert_same(in_hand(pictures[0], candidate_labels=LABELS), expected[0])


def test_mean_and_deviation_are_the_image_processors(folder):
    processor = AutoImageProcessor.from_pretrained(folder)
    processor.image_mean, processor.image_std = [0.5] * 3, [0.25] * 3
    pipe = pipeline(TASK, model=str(folder), image_processor=processor)
    assert pipe.segmenter.encoder.mean.tolist() == [0.5] * 3
    assert pipe.segmenter.encoder.std.tolist() == [0.25] * 3


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, "bfloat16"])
def test_dtype(folder, pictures, name, dtype):
    if name == "dtype" and "dtype" not in pipeline.__code__.co_varnames:
        pytest.skip("this release of transformers calls it torch_dtype")
    pipe = pipeline(TASK, model=str(folder), hypothesis_template="a photo of a {}.", **{name: dtype})
    assert pipe.model.dtype == torch.bfloat16
    assert pipe(pictures[0], candidate_labels=LABELS)


@pytest.mark.parametrize("device", ["cpu", -1, torch.device("cpu")])
def test_device(folder, pictures, expected, device):
    pipe = pipeline(TASK, model=str(folder), device=device, hypothesis_template="a photo of a {}.")
    assert pipe.device == torch.device("cpu") == pipe.segmenter.device
    assert_same(pipe(pictures[0], candidate_labels=LABELS), expected[0])


def test_saving_gives_an_ordinary_checkpoint(folder, pipe, pictures, expected, tmp_path):
    pipe(pictures[0], candidate_labels=LABELS)
    pipe.model.save_pretrained(tmp_path / "model")
    pipe.save_pretrained(tmp_path / "pipeline")
    ordinary = CLIPModel.from_pretrained(folder).state_dict()
    for saved in ("model", "pipeline"):
        assert not list((tmp_path / saved).glob("*.py"))
        assert "custom_pipelines" not in (tmp_path / saved / "config.json").read_text()
        state = CLIPModel.from_pretrained(tmp_path / saved).state_dict()
        assert state.keys() == ordinary.keys()
        assert all(torch.equal(state[key], ordinary[key]) for key in state)
    again = pipeline(TASK, model=str(tmp_path / "pipeline"), hypothesis_template="a photo of a {}.")
    assert_same(again(pictures[0], candidate_labels=LABELS), expected[0])


def test_the_model_is_left_as_it_was(folder, pictures):
    model = CLIPModel.from_pretrained(folder).eval()
    pixels = torch.rand(1, 3, 64, 64)
    before = model.get_image_features(pixels)
    parts = {
        "tokenizer": AutoTokenizer.from_pretrained(folder),
        "image_processor": AutoImageProcessor.from_pretrained(folder),
    }
    pipeline(TASK, model=model, **parts)(pictures[0], candidate_labels=LABELS, hypothesis_template="a {}.")
    after = model.get_image_features(pixels)
    for ours, theirs in zip(_tensors(before), _tensors(after), strict=True):
        assert torch.equal(ours, theirs)


def _tensors(output):
    return (
        [output] if isinstance(output, torch.Tensor) else [t for t in output.to_tuple() if isinstance(t, torch.Tensor)]
    )


@pytest.mark.parametrize(
    "through", [copy.deepcopy, lambda pipe: pickle.loads(pickle.dumps(pipe))], ids=["copy", "pickle"]
)
def test_a_copy_of_the_pipeline_works(pipe, pictures, expected, through):
    """Worker processes that are spawned get it this way."""
    assert_same(through(pipe)(pictures[0], candidate_labels=LABELS), expected[0])


# ---- errors


@pytest.mark.parametrize("labels", [[], "", [""], ["cat", " "], ["cat", "cat"], [["cat"], []], 7, [7]])
def test_unusable_labels(pipe, pictures, labels):
    with pytest.raises(LabelError):
        pipe(pictures[0], candidate_labels=labels)
    with pytest.raises(LabelError):
        pipe([{"image": pictures[0], "candidate_labels": labels}])


def test_no_labels(pipe, pictures):
    with pytest.raises(LabelError, match="no labels were given"):
        pipe(pictures[0])


def test_no_picture(pipe):
    with pytest.raises(PictureError, match="no picture was given"):
        pipe(candidate_labels=LABELS)
    with pytest.raises(PictureError, match="expected 'image'"):
        pipe({"picture": 1}, candidate_labels=LABELS)


def test_a_bomb_in_base64_is_refused(pipe, tmp_path):
    Image.new("P", (20_000, 20_000)).save(tmp_path / "bomb.gif")
    encoded = base64.b64encode((tmp_path / "bomb.gif").read_bytes()).decode()
    for form in (encoded, str(tmp_path / "bomb.gif")):
        with pytest.raises(PictureError):
            pipe(form, candidate_labels=LABELS)


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("source", ["nowhere.jpg", "", "data:image/png;base64,AAAA", "A" * 10_000])
def test_a_picture_that_cannot_be_read(pipe, source, num_workers):
    with pytest.raises(PictureError, match="cannot be read as a picture") as caught:
        list(pipe([source], candidate_labels=LABELS, num_workers=num_workers))
    if not num_workers:
        assert len(str(caught.value)) < 400


def test_a_file_that_is_no_picture(pipe, tmp_path):
    (tmp_path / "notes.jpg").write_text("not a picture")
    with pytest.raises(PictureError, match=r"notes\.jpg cannot be read as a picture"):
        pipe(str(tmp_path / "notes.jpg"), candidate_labels=LABELS)
    with pytest.raises(PictureError, match="folder"):
        pipe(str(tmp_path), candidate_labels=LABELS)


def test_unknown_parameters(pipe, folder, pictures):
    with pytest.raises(UnknownNameError, match="windwo.*Did you mean 'window'"):
        pipe(pictures[0], candidate_labels=LABELS, windwo=3)
    with pytest.raises(UnknownNameError, match="windwo"):
        pipeline(TASK, model=str(folder), windwo=3)
    with pytest.raises(UnknownNameError, match="naclpi"):
        pipe(pictures[0], candidate_labels=LABELS, method="naclpi")
    with pytest.raises(ValueError, match="'masks' or 'semantic'"):
        pipe(pictures[0], candidate_labels=LABELS, output="panoptic")
    with pytest.raises(SettingError, match="threshold"):
        pipe(pictures[0], candidate_labels=LABELS, threshold=2)


def test_long_labels_are_cut_with_a_warning_that_names_them(folder, pipe, pictures):
    long = "a very " + "long " * 40 + "name"
    with pytest.warns(UserWarning, match="the text tower reads 128 tokens") as caught:
        found = pipe(pictures[0], candidate_labels=["cat", long], output="semantic")
    assert any(long in str(w.message) and "'cat'" not in str(w.message) for w in caught)
    assert found["labels"] == ["cat", long]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipe(pictures[0], candidate_labels=["cat", long])  # said once
    with pytest.warns(UserWarning, match="the text tower reads 128 tokens"):  # and once in every process
        pipeline(TASK, model=str(folder), hypothesis_template="a photo of a {}.")(pictures[0], ["cat", long])


@pytest.mark.parametrize("with_tokenizer", [True, False])
def test_a_model_without_text_tower(folder, with_tokenizer):
    from sclip_plugin.integrations.transformers import ZeroShotSegmentationPipeline

    model = CLIPVisionModel.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder) if with_tokenizer else None
    with pytest.raises(UnsupportedModelError, match="CLIPVisionModel has no text tower"):
        ZeroShotSegmentationPipeline(model=model, tokenizer=tokenizer, task=TASK)


def test_a_checkpoint_without_text_tower(folder, tmp_path):
    CLIPVisionModel.from_pretrained(folder).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    AutoImageProcessor.from_pretrained(folder).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match="CLIPVisionModel has no text tower"):
        pipeline(TASK, model=str(tmp_path))


def test_explicit_import():
    from sclip_plugin.integrations.transformers import ZeroShotSegmentationPipeline

    assert issubclass(ZeroShotSegmentationPipeline, __import__("transformers").Pipeline)
    assert sp.__version__
