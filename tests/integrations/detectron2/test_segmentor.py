"""SCLIPSegmentor: what goes in and out is SemanticSegmentor's, the label map is the segmenter's."""

import copy
import dataclasses
import pickle

import golden
import numpy as np
import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from PIL import Image
from sclip_plugin.integrations.detectron2 import SCLIPSegmentor

from sclip_plugin import Prepared, Segmenter
from sclip_plugin.errors import LabelError, PictureError

LABELS = ["cat", ["sofa", "couch"], "grass", "sky", "person"]
# One for every rule that makes a label map more than an argmax of scores, and for every way through the windows.
SETTINGS = {
    "plain": {},
    "probability": {"steps": "benchmark(prob=0.3)"},
    "area": {"steps": "benchmark(prob=0.1, area=0.3)"},
    "certain": {"logit_scale": 1000.0, "steps": "benchmark(prob=0.9, area=0.2), normalize"},
    "normalized": {"steps": "benchmark(prob=0.3), normalize"},
    "background": {"background": True},
    "pamr": {"steps": "pamr(steps=2)"},
    "whole": {"window": 0, "method": "naclip", "std": 4.0},
    "own size": {"resize_short_side": 0},
}


@pytest.fixture
def make_model(segmenter):
    def make(classes=LABELS, input_format="RGB", **settings):
        own = copy.copy(segmenter)
        own.settings = segmenter.settings.changed(templates="plain", window=112, stride=56, resize_short_side=112)
        own.settings = own.settings.changed(**settings)
        return SCLIPSegmentor(segmenter=own, classes=classes, input_format=input_format).eval()

    return make


def tensor(picture):
    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))


def test_registered_and_built_from_a_config(make_cfg):
    assert META_ARCH_REGISTRY.get("SCLIPSegmentor") is SCLIPSegmentor
    model = build_model(make_cfg("sclip", "MODEL.SCLIP.CLASSES", ["cat", "dog"]))
    assert isinstance(model, SCLIPSegmentor)
    assert model.vocabulary.labels == ("cat", "dog")
    assert set(model.state_dict()) == {f"clip.{key}" for key in model.segmenter.model.state_dict()}


def test_encoded_pictures_answer_for_other_classes(make_model, pictures, monkeypatch):
    model = make_model()
    inputs = [{"image": tensor(picture), "height": 40, "width": 60} for picture in pictures]
    model.set_classes(["dog", "grass"])
    expected = model(inputs)
    encoded = model.encode(inputs)
    mixed = model([inputs[0], *encoded[1:]])
    monkeypatch.setattr(model.segmenter.tower, "embed", lambda *arguments: pytest.fail("the tower ran again"))
    for ours, between, theirs in zip(model(encoded), mixed, expected, strict=True):
        assert ours["sem_seg"].shape == (2, 40, 60)
        assert (ours["sem_seg"] - theirs["sem_seg"]).abs().max() < 0.02  # features in half precision
        assert (between["sem_seg"] - theirs["sem_seg"]).abs().max() < 0.02


@pytest.mark.parametrize("name", SETTINGS)
def test_the_best_class_is_the_segmenters_label_on_every_pixel(make_model, pictures, name):
    model = make_model(**SETTINGS[name])
    expected = model.segmenter(pictures, LABELS)
    outputs = model([{"image": tensor(picture)} for picture in pictures])
    for output, result in zip(outputs, expected, strict=True):
        scores = output["sem_seg"]
        assert scores.shape == (len(result.labels), *result.size) and scores.dtype == torch.float32
        assert 0 <= scores.min() and scores.max() <= 1.0001
        assert np.array_equal(scores.argmax(dim=0).numpy(), result.label_map)
        # Where the thresholds change nothing, the scores are the segmenter's own.
        same = result.scores.argmax(axis=0) == result.label_map
        assert np.array_equal(scores.numpy()[:, same], result.scores[:, same])


def test_ruled_out_classes_score_zero(make_model, pictures):
    model = make_model(steps="benchmark(prob=0.999)")
    scores = model([{"image": tensor(pictures[0])}])[0]["sem_seg"]
    assert (scores.argmax(dim=0) == 0).all()
    unsure = model.segmenter(pictures[0], LABELS).scores.argmax(axis=0) != 0
    assert unsure.any() and (scores[1:, torch.from_numpy(unsure)] == 0).all()


def test_height_and_width_say_the_size_of_the_output(make_model, pictures):
    model = make_model()
    image = tensor(pictures[0])
    outputs = model([{"image": image, "height": 70, "width": 50}, {"image": image}])
    assert [tuple(output["sem_seg"].shape[1:]) for output in outputs] == [(70, 50), image.shape[1:]]
    prepared = model.segmenter.prepare(image)
    (expected,) = model.segmenter.stream([dataclasses.replace(prepared, size=(70, 50))], LABELS)
    assert np.array_equal(outputs[0]["sem_seg"].argmax(dim=0).numpy(), expected.label_map)


def test_a_batch_gives_what_each_picture_gives_alone(make_model, pictures):
    model = make_model()
    entries = [{"image": tensor(picture)} for picture in pictures]
    for together, entry in zip(model(entries), entries, strict=True):
        golden.assert_equal(together["sem_seg"], model([entry])[0]["sem_seg"])


@pytest.mark.parametrize(
    "image_of",
    [
        lambda rgb: ("RGB", rgb),
        lambda rgb: ("RGB", rgb.float()),
        lambda rgb: ("RGB", rgb.float() + 0.25),
        lambda rgb: ("RGB", rgb.to(torch.int64)),
        lambda rgb: ("BGR", rgb.flip(0)),
        lambda rgb: ("BGR", rgb.flip(0).float()),
    ],
)
def test_formats_and_types_of_a_picture(make_model, pictures, image_of):
    rgb = tensor(pictures[1])
    input_format, image = image_of(rgb)
    expected = make_model()([{"image": rgb}])[0]["sem_seg"]
    assert torch.equal(make_model(input_format=input_format)([{"image": image}])[0]["sem_seg"], expected)


def test_one_channel(make_model, pictures):
    grey = tensor(pictures[1])[:1]
    expected = make_model()([{"image": grey.expand(3, -1, -1)}])[0]["sem_seg"]
    assert torch.equal(make_model(input_format="L")([{"image": grey}])[0]["sem_seg"], expected)


def test_classes_change_without_rebuilding(make_model, pictures, monkeypatch):
    model = make_model(classes=None)
    entry = {"image": tensor(pictures[0])}
    with pytest.raises(LabelError, match="set_classes"):
        model([entry])
    encoded = []
    encode = model.segmenter.text_bank.tower.encode
    monkeypatch.setattr(model.segmenter.text_bank.tower, "encode", lambda tokens: encoded.append(1) or encode(tokens))
    for classes in (["a word", "another word"], {"one": ["a word"], "two": "third word"}, ["a word", "another word"]):
        model.set_classes(classes)
        expected = Segmenter.__call__(model.segmenter, pictures[0], classes)
        output = model([entry])[0]["sem_seg"]
        assert np.array_equal(output.argmax(dim=0).numpy(), expected.label_map)
        assert model.metadata.stuff_classes == list(expected.labels)
        assert len(model.metadata.stuff_colors) == len(expected.labels)
    assert len(encoded) == 2  # the third vocabulary is known


def test_wrong_classes_leave_the_old_ones(make_model):
    model = make_model()
    with pytest.raises(LabelError, match="twice"):
        model.set_classes(["cat", "cat"])
    assert model.vocabulary.labels == ("cat", "sofa", "grass", "sky", "person")


def test_training_is_refused_in_words(make_model, pictures):
    model = make_model().train()
    with pytest.raises(RuntimeError, match=r"training-free.*model\.eval\(\)"):
        model([{"image": tensor(pictures[0])}])


def test_what_cannot_be_built(segmenter):
    with pytest.raises(ValueError, match="'YUV-BT.601'; expected one of RGB, BGR, L"):
        SCLIPSegmentor(segmenter=segmenter, input_format="YUV-BT.601")
    unlabelled = copy.copy(segmenter)
    for leaving in ({"threshold": 0.5}, {"ignore": "ball"}):
        unlabelled.settings = segmenter.settings.changed(**leaving)
        with pytest.raises(ValueError, match=f"{next(iter(leaving))}.*which leaves pixels without a class"):
            SCLIPSegmentor(segmenter=unlabelled)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(32, 32, 3), r"\(32, 32, 3\); expected a tensor \(3, H, W\)"),
        (torch.zeros(1, 32, 32), r"\(1, 32, 32\)"),
        (torch.zeros(3, 0, 32), r"\(3, 0, 32\)"),
        (np.zeros((3, 32, 32)), r"expected a tensor"),
        (torch.linspace(-2, 2, 3 * 32 * 32).view(3, 32, 32), "values from -2 to 2; expected 0 to 255"),
        (torch.rand(3, 32, 32), "expected 0 to 255"),
    ],
)
def test_a_picture_of_another_form_is_refused(make_model, image, message):
    if isinstance(image, np.ndarray):
        image = image.tolist()
    with pytest.raises(PictureError, match=message):
        make_model()([{"image": image}])


def test_new_weights_make_new_text(make_model, pictures):
    model = make_model()
    model.segmenter = copy.copy(model.segmenter)
    entry = {"image": tensor(pictures[0])}
    before = model([entry])[0]["sem_seg"]
    old = copy.deepcopy(model.state_dict())
    new = {key: value * 1.5 if key.startswith("clip.text") else value for key, value in old.items()}
    try:
        model.load_state_dict(new)
        assert not torch.equal(model([entry])[0]["sem_seg"], before)
    finally:
        model.load_state_dict(old)
    assert torch.equal(model([entry])[0]["sem_seg"], before)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_are_independent(make_model, pictures, copied):
    model = make_model()
    entry = {"image": tensor(pictures[0])}
    expected = model([entry])[0]["sem_seg"]
    other = copied(model)
    assert other.segmenter.model is other.clip is not model.clip
    other.set_classes(["something else"])
    assert torch.equal(model([entry])[0]["sem_seg"], expected)
    other.set_classes(LABELS)
    assert torch.equal(other([entry])[0]["sem_seg"], expected)


def test_resizing_by_detectron2_is_taken_as_it_is(make_cfg, segmenter, pictures):
    """MIN_SIZE_TEST with RESIZE_SHORT_SIDE 0: the tower sees Pillow's pixels; the output is the picture's size"""
    from detectron2.engine import DefaultPredictor

    options = ["MODEL.SCLIP.CLASSES", LABELS, "MODEL.SCLIP.RESIZE_SHORT_SIDE", 0, "INPUT.MIN_SIZE_TEST", 100]
    output = DefaultPredictor(make_cfg("sclip", *options))(pictures[0][:, :, ::-1])["sem_seg"]
    height, width = pictures[0].shape[:2]
    scale = 100 / min(height, width)
    size = (int(width * scale + 0.5), int(height * scale + 0.5))
    small = tensor(np.array(Image.fromarray(pictures[0]).resize(size, Image.Resampling.BILINEAR)))
    expected = segmenter(Prepared(None, small, (height, width)), LABELS)
    assert np.array_equal(output.argmax(dim=0).numpy(), expected.label_map)
