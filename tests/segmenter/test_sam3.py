"""SAM 3 behind the seam: golden parity, held-out weights against the text, one look for many questions."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden import arrays
from PIL import Image
from sam3_golden import CLASSES, NAMES, processor, saved, tiny

import sclip_plugin as sp
from sclip_plugin.device import Budget
from sclip_plugin.errors import LabelError, PictureError, SettingError, UnsupportedModelError
from sclip_plugin.segment import sam3
from sclip_plugin.steps import STEPS, list_steps


def segmenter(options="", seed=None, **changes):
    return sp.Segmenter(tiny(seed), processor(), method=f"sam3({options})", **changes)


def picture(tag="small"):
    return arrays("SAM3")[f"{tag}.picture"].numpy()


def name_maps(result):
    return result._scores.maps.full().permute(2, 0, 1)


def close(ours, golden):
    assert ours.shape == golden.shape
    assert float((ours - golden).abs().max()) <= 1e-5 * float(golden.abs().max())


TABLE = [
    ("segearth.conf0.5", "conf=0.5, presence_squared=True", ("0.0", "0.4")),
    ("segearth.conf0.3", "conf=0.3, presence_squared=True", ("0.0", "0.4")),
    ("conceptbank.conf0.3", "conf=0.3, queries=30", ("0.5",)),
    ("conceptbank.conf0.3.top3", "conf=0.3, queries=3", ()),
]


@pytest.mark.parametrize("tag", ["picture", "small"])
@pytest.mark.parametrize(("key", "options", "below"), TABLE, ids=[row[0] for row in TABLE])
def test_maps_and_labels_are_the_published_ones(tag, key, options, below):
    golden = arrays("SAM3")
    encoded = segmenter(options).encode(picture(tag), dtype=torch.float32)
    result = encoded.segment(CLASSES)
    close(name_maps(result)[:, ::4, ::4], golden[f"{tag}.{key}.words.every4"])
    for least in below:
        labels = encoded.segment(CLASSES, steps=f"benchmark({least})").label_map
        assert (labels == golden[f"{tag}.{key}.labels.below{least}"].numpy()).mean() >= 0.9999
    presence = golden[f"{tag}.presence_logits"][:, 0].sigmoid().tolist()
    assert result.presence["cat"] == pytest.approx(presence[3], abs=1e-5)
    assert result.presence["sky"] == pytest.approx(max(presence[:3]), abs=1e-5)


def test_windows_are_stretched_one_by_one():
    golden = arrays("SAM3")
    seg = segmenter("presence_squared=True", window=96, stride=64)
    result = seg(picture("picture"), CLASSES, steps="benchmark(0.3)")
    close(name_maps(result)[:, ::4, ::4], golden["windows.segearth.conf0.3.words.every4"])
    assert (result.label_map == golden["windows.segearth.conf0.3.labels.below0.3"].numpy()).mean() >= 0.9999
    encoded = seg.encode(picture("picture"), dtype=torch.float32)
    np.testing.assert_array_equal(encoded.segment(CLASSES).label_map, seg(picture("picture"), CLASSES).label_map)


def by_the_text(model, shown, names, conf):
    """Section by section: one word at a time, straight through the model, all masks resized at once."""
    pixels = torch.tensor(shown).permute(2, 0, 1)[None].contiguous()
    pixels = F.interpolate(pixels, size=(112, 112), mode="bilinear", antialias=True).float()
    maps, scores = [], []
    for name in names:
        said = processor().tokenizer(name)["input_ids"]
        out = model(pixel_values=pixels / 127.5 - 1, input_ids=torch.tensor([said]))
        p = out.presence_logits.sigmoid()
        s = (out.pred_logits.sigmoid() * p)[0]
        masks = F.interpolate(out.pred_masks, size=shown.shape[:2], mode="bilinear").sigmoid()[0]
        semantic = F.interpolate(out.semantic_seg, size=shown.shape[:2], mode="bilinear").sigmoid()[0, 0]
        instances = (masks * (s * (s > conf))[:, None, None]).amax(dim=0)
        maps.append(torch.maximum(instances, semantic * p[0]))
        scores.append(s)
    return torch.stack(maps), torch.stack(scores)


@pytest.mark.parametrize(("seed", "size"), [(3, (64, 91)), (4, (201, 40)), (5, (1, 1))])
def test_held_out_weights_and_sizes(seed, size):
    model = tiny(seed)
    shown = np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)
    with torch.inference_mode():
        _, scores = by_the_text(model, shown, NAMES, 0)
        values = scores.flatten().sort().values
        middle = int(values.diff().argmax())  # the widest gap: no score may change sides by rounding
        conf = float(values[middle : middle + 2].mean())
        expected, _ = by_the_text(model, shown, NAMES, conf)
    result = segmenter(f"conf={conf}", seed)(shown, NAMES)
    close(name_maps(result), expected)
    assert (result.label_map == expected.argmax(dim=0).numpy()).mean() >= 0.9999


def test_a_second_question_costs_its_words_alone(monkeypatch):
    looks, asks = [], []
    encoder, decoder = tiny().vision_encoder, tiny().detr_decoder
    monkeypatch.setattr(encoder, "forward", _counted(encoder.forward, looks))
    monkeypatch.setattr(decoder, "forward", _counted(decoder.forward, asks))
    seg = segmenter()
    encoded = seg.encode(picture(), dtype=torch.float32)
    assert (len(looks), len(asks)) == (1, 0)
    first, second = encoded.segment(["cat", "dog"]), encoded.segment(["tree"])
    assert (len(looks), len(asks)) == (1, 2)
    assert second.labels == ("tree",)
    np.testing.assert_array_equal(first.scores, seg(picture(), ["cat", "dog"]).scores)


def _counted(forward, calls):
    def run(*arguments, **options):
        calls.append(1)
        return forward(*arguments, **options)

    return run


def test_words_at_once_changes_nothing(monkeypatch):
    many = segmenter()(picture(), CLASSES).scores
    monkeypatch.setattr(sam3, "WORDS_AT_ONCE", 1)
    np.testing.assert_allclose(segmenter()(picture(), CLASSES).scores, many, atol=1e-5)


def test_what_is_kept_of_a_word_does_not_grow_with_the_picture():
    words = [segmenter("conf=0.3")(np.zeros((side, side, 3), np.uint8), ["cat"]).maps.seen[0][0] for side in (50, 900)]
    assert words[0].semantic.shape == words[1].semantic.shape == (32, 32)
    assert words[1].masks.shape[0] == len(words[1].scores) < 40


def test_instances_are_the_detectors_own():
    result = segmenter("conf=0.1")([picture()], NAMES)[0]
    with torch.inference_mode():
        _, scores = by_the_text(tiny(), picture(), NAMES, 0)
    own = result.instances()
    assert 0 < len(own) <= int((scores > 0.1).sum())
    assert all(float((scores.flatten() - item.score).abs().min()) < 1e-5 and item.score > 0.1 for item in own)
    assert all(item.full_mask().shape == result.size for item in own)
    assert [item.area for item in own] == sorted((item.area for item in own), reverse=True)
    least = own[0].area
    assert all(item.area >= least for item in result.instances(min_area=least))
    assert {item.label for item in own} <= {label for label, area in result.areas().items() if area}


def test_bands_of_rows_are_those_of_the_whole_map():
    whole = segmenter("conf=0.1")(picture(), NAMES)
    maps = dataclasses.replace(whole._scores.maps, limits=Budget(1024, 8 * 64 * 7, 64, 1024))
    assert len(list(maps.tiles())) > 12
    np.testing.assert_allclose(maps.full(), whole._scores.maps.full(), atol=1e-6)


def test_masks_of_instances_are_where_their_logits_are_positive():
    result = segmenter("conf=0.1")(picture(), ["cat"])
    word = result.maps.seen[0][0]
    logits = F.interpolate(word.masks[None], size=result.size, mode="bilinear")[0]
    found = {round(item.score, 5): item.area for item in result.instances()}
    areas = (logits > 0).sum(dim=(1, 2)).tolist()
    expected = {round(score, 5): area for score, area in zip(word.scores.tolist(), areas, strict=True)}
    assert found == {score: area for score, area in expected.items() if area}


def test_absent_labels_have_no_instances():
    result = segmenter("conf=0.1")(picture(), NAMES, present=1.0)
    assert sum(result.areas().values()) == 0 and len(result.instances()) == 0


def test_instances_of_a_changed_label_map_are_its_regions():
    result = segmenter("conf=0.1")(picture(), NAMES)
    changed = result.cleaned(100)
    assert len(changed.instances()) == len(changed.instances("components")) != len(result.instances())
    assert sum(item.area for item in changed.instances()) == (changed.label_map >= 0).sum()


def test_absent_words_paint_nothing_where_that_is_asked():
    free = segmenter()(picture(), NAMES)
    ranked = sorted(free.presence.values())
    least = (ranked[3] + ranked[4]) / 2
    result = segmenter()(picture(), NAMES, present=least)
    assert result.presence == pytest.approx(free.presence)
    absent = {name for name, there in free.presence.items() if there < least}
    assert len(absent) == 4 and not any(result.mask(name).any() for name in absent)
    assert segmenter()(picture(), NAMES, present=1.0).areas() == dict.fromkeys(NAMES, 0.0)


REFUSED = [
    (lambda seg: seg(picture(), ["cat"], method="csa"), SettingError, "has the method sam3 alone"),
    (lambda seg: seg(picture(), ["cat"], templates="plain"), SettingError, "SAM 3 does not have"),
    (lambda seg: seg(picture(), ["cat"], resize_short_side=336), SettingError, "SAM 3 does not have"),
    (lambda seg: seg(picture(), ["cat"], background=True), SettingError, "threshold=0.4"),
    (lambda seg: seg(picture(), ["cat"], steps="surgery"), SettingError, "looks at patches"),
    (lambda seg: seg(picture(), {"cat": torch.ones(4)}), LabelError, "words only"),
    (lambda seg: seg(picture(), ["empty"]), LabelError, "no tokens"),
    (lambda seg: seg.vector_of(picture(), np.ones(picture().shape[:2], bool)), UnsupportedModelError, "no features"),
    (lambda seg: seg.encode(picture()).features(), UnsupportedModelError, "no features"),
    (lambda seg: seg.encode(picture()).similarity("cat"), UnsupportedModelError, "no features"),
    (lambda seg: seg.encode(picture()).classify(np.ones(picture().shape[:2], int), ["cat"]), UnsupportedModelError, ""),
    (lambda seg: seg.encode(picture()).save("x"), UnsupportedModelError, "no features"),
    (lambda seg: seg.text_embeddings(["cat"])[1][0], UnsupportedModelError, "no features"),
    (
        lambda seg: seg.tune([picture()] * 3, [np.zeros(picture().shape[:2], int)] * 3, ["cat"]),
        UnsupportedModelError,
        "",
    ),
    (lambda seg: sp.Presence.build(seg, [picture()] * 5), UnsupportedModelError, "no features"),
    (lambda seg: sp.dense_features(seg.model, torch.zeros(1, 3, 112, 112)), UnsupportedModelError, ""),
    (lambda seg: sp.apply(seg.model, "csa"), UnsupportedModelError, ""),
    (lambda seg: sp.Segmenter(seg.model, None), UnsupportedModelError, "Sam3Processor"),
    (lambda seg: sp.Segmenter(seg.model, processor(), presence="x"), SettingError, "presence head"),
    (lambda seg: sp.Segmenter(seg.model, processor(), image_mean=(0, 0, 0)), SettingError, "its own"),
    (lambda seg: seg.encode(picture()).segment(["cat"], window=50), SettingError, "encode it again"),
    (lambda seg: seg(Image.new("RGB", (24_000_000, 1)), ["cat"]), PictureError, "shorter pieces"),
    (lambda seg: sp.Segmenter.from_pretrained("demo", method="sam3"), UnsupportedModelError, "facebook/sam3"),
    (lambda seg: sp.apply(sp.Segmenter.from_pretrained("demo").model, "sam3"), UnsupportedModelError, "facebook/sam3"),
]


@pytest.mark.parametrize(("ask", "error", "said"), REFUSED)
def test_what_it_can_not_do_ends_in_a_sentence(ask, error, said):
    seg = segmenter()
    with pytest.raises(error) as raised:
        ask(seg)
    assert said in str(raised.value)


@pytest.mark.parametrize("step", list_steps())
def test_each_step_works_or_is_refused_in_a_sentence(step, tmp_path):
    seg = segmenter("conf=0.1")
    try:
        result = seg(picture(), NAMES, steps=[step], masks="slic" if STEPS[step].needs_regions else None)
    except sp.SclipError:
        assert step not in ("pamr", "threshold", "closing", "specks", "vote", "merge", "present", "benchmark")
    else:
        assert result.label_map.shape == picture().shape[:2]


def test_ignored_words_compete_and_are_not_told():
    every, result = (segmenter("conf=0.1")(picture(), NAMES[:n], ignore=NAMES[n:]) for n in (8, 6))
    np.testing.assert_array_equal(result.label_map, np.where(every.label_map < 6, every.label_map, -1))
    assert set(result.presence) == set(result.labels) == set(NAMES[:6])
    assert {item.label for item in result.instances()} <= set(NAMES[:6])


def test_long_words_are_cut_which_is_said():
    seg = segmenter()
    with pytest.warns(UserWarning, match="first 32"):
        seg(picture(), [" ".join(["cat"] * 40)])


def test_a_threshold_leaves_pixels_unlabelled():
    result = segmenter()(picture(), CLASSES)
    best = result.scores.max(axis=0)
    cut = float(np.median(best)) + 1e-4
    labels = segmenter()(picture(), CLASSES, threshold=cut).label_map
    np.testing.assert_array_equal(labels, np.where(best < cut, -1, result.label_map))


def test_frames_of_one_camera_are_smoothed_at_the_grid_of_masks():
    seg = segmenter()
    frames = [picture(), 255 - picture(), picture()]
    assert seg.chain.looking.plan((60, 80), seg.settings).patches == (32, 32)
    still = list(seg.stream([picture()] * 3, CLASSES, smoothing=0.5))
    moving = list(seg.stream(frames, CLASSES, smoothing=0.5))
    assert still[0].presence == pytest.approx(still[2].presence)
    alone = [seg(frame, CLASSES).presence["cat"] for frame in frames]
    assert moving[1].presence["cat"] == pytest.approx((alone[0] + alone[1]) / 2, abs=1e-6)


def test_an_identity_follows_the_words_and_the_options():
    seg = segmenter()
    assert seg.identity(["cat"]) == segmenter().identity(["cat"]) != seg.identity(["dog"])
    assert seg.identity(["cat"]) != segmenter("conf=0.5").identity(["cat"]) != segmenter(seed=3).identity(["cat"])


def test_a_folder_is_known_by_its_config(tmp_path):
    seg = sp.Segmenter.from_pretrained(saved(tmp_path))
    result = seg(picture(), ["cat", "dog"])
    assert result.settings["method"] == "sam3" and set(result.presence) == {"cat", "dog"}
