"""The demo's scenes, captions, vocabulary, trainer and shipped checkpoint."""

import subprocess
import sys

import golden
import numpy as np
import pytest
import torch
from PIL import Image

import sclip_plugin as sp
from sclip_plugin import demo
from sclip_plugin.demo import captions, scenes
from sclip_plugin.demo.sprites import GROUNDS, SYNONYMS, THINGS, sprite
from sclip_plugin.demo.training import batches, retrieval, tokenizer, train
from sclip_plugin.demo.training.network import (
    contrastive_loss,
    image_embeddings,
    normalise,
    text_embeddings,
    word_loss,
)
from sclip_plugin.errors import ModelLoadError

TINY = dict(
    batch=8, large_batch=4, width=32, depth=2, text_width=32, text_depth=1, joint=16, warmup=1, small_steps=2
)  # fmt: skip


def test_importing_the_demo_imports_no_framework():
    code = "import sclip_plugin.demo, sys; print({'torch', 'transformers', 'tokenizers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


def test_there_are_at_least_forty_things_and_eight_grounds():
    assert len(THINGS) >= 40 and len(GROUNDS) >= 8
    assert demo.CLASSES == THINGS + GROUNDS and len(set(demo.CLASSES)) == len(demo.CLASSES)


@pytest.mark.parametrize("size", [(96, 96), (288, 192), (33, 70)])
def test_a_scene_is_a_function_of_its_seed(size):
    one, same, other = (demo.draw_scene(seed, size) for seed in (5, 5, 6))
    assert one.picture.size == size and one.picture.mode == "RGB"
    assert one.label_map.shape == size[::-1] and one.label_map.dtype == np.int16
    assert np.array_equal(one.picture, same.picture) and np.array_equal(one.label_map, same.label_map)
    assert (one.labels, one.caption) == (same.labels, same.caption)
    assert not np.array_equal(one.picture, other.picture)


def test_at_twice_its_size_a_scene_is_the_same():
    for seed in range(6):
        scene, larger = sp.draw_scene(seed), sp.draw_scene(seed, scale=2)
        assert larger.picture.size == tuple(2 * side for side in scene.picture.size)
        assert larger.labels == scene.labels and larger.caption == scene.caption
        assert (larger.label_map[::2, ::2] != scene.label_map).mean() < 0.02
        halved = np.asarray(larger.picture.resize(scene.picture.size, Image.Resampling.BOX), np.int16)
        assert abs(halved - np.asarray(scene.picture, np.int16)).mean() < 6  # of 255; textures lose their finest grain
    with pytest.raises(sp.SclipError, match="scale is 1.5"):
        sp.draw_scene(0, scale=1.5)


def test_every_label_is_in_the_mask_and_grounds_come_last():
    for scene in demo.held_out_scenes(12, (192, 144)):
        assert set(np.unique(scene.label_map)) == set(range(len(scene.labels)))
        kinds = [name in GROUNDS for name in scene.labels]
        assert kinds == sorted(kinds) and kinds[-1]


def test_masks_match_the_picture():
    """With every thing and ground in a colour of its own, the picture's colours are the label map."""
    from sclip_plugin.demo import sprites

    codes = {name: np.float32((4 * index + 4, 0, 0)) for index, name in enumerate(demo.CLASSES)}

    def flat_ground(name, rng, height, width):
        return np.broadcast_to(codes[name], (height, width, 3)).copy()

    def flat_sprite(name, rng, longest):
        solid = (sprites.sprite(name, rng, longest)[..., 3:] > 0.5).astype(np.float32)
        return np.concatenate([codes[name] * solid, solid], -1)

    for seed in range(10):
        rng = np.random.default_rng(seed)
        canvas, label_map, things, grounds = scenes.compose(rng, (120, 96), 4, flat_ground, flat_sprite)
        assert np.array_equal(canvas[..., 0], 4 * label_map + 4)
        assert {demo.CLASSES[index] for index in np.unique(label_map)} == {*things, *grounds}


def test_a_thing_keeps_its_shape_under_its_opacity():
    picture = sprite("apple", np.random.default_rng(0), 40)
    assert picture[..., :3].max() <= 255 and (picture[..., :3] <= 255 * picture[..., 3:] + 1e-3).all()
    assert 0.3 < (picture[..., 3] > 0.5).mean() < 0.95


def test_a_scene_too_small_to_draw_is_refused():
    with pytest.raises(ValueError, match="32 pixels"):
        demo.draw_scene(0, (96, 20))


def test_held_out_scenes_are_drawn_from_seeds_of_their_own():
    first = next(iter(demo.held_out_scenes(1)))
    again = demo.draw_scene(scenes.HELD_OUT_FIRST_SEED, (96, 96))
    assert np.array_equal(first.picture, again.picture)


def test_captions_say_the_names_and_nothing_else():
    rng = np.random.default_rng(0)
    for _ in range(300):
        things = [str(name) for name in rng.choice(THINGS, 3, replace=False)]
        names = captions.draw_names(things, ["road"], rng)
        assert names and set(names) <= {*things, "road"}
        text = captions.caption(names, rng)
        assert all(any(word in text for word in (name, *SYNONYMS[name])) for name in names), (names, text)


def test_a_scene_caption_names_all_labels():
    for scene in demo.held_out_scenes(20):
        assert all(any(word in scene.caption for word in (name, *SYNONYMS[name])) for name in scene.labels)


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabulary")
    tokenizer.build(folder, ["traffic light"], vocabulary=900)
    return folder


@pytest.mark.parametrize("text", ["a photo of a cat.", "two zebras, übermäßig 猫", "brick wall"])
def test_any_text_survives_the_tokenizer(vocabulary, text):
    from transformers import CLIPTokenizer, CLIPTokenizerFast

    for kind in (CLIPTokenizer, CLIPTokenizerFast):
        found = kind.from_pretrained(str(vocabulary))
        ids = found(text).input_ids
        assert ids[0] == found.bos_token_id and ids[-1] == found.eos_token_id == max(found.get_vocab().values())
        assert found.unk_token_id not in ids[1:-1]
        assert found.decode(ids, skip_special_tokens=True).replace(" ", "") == text.replace(" ", "")


def test_a_batch_is_a_function_of_seed_and_step_and_knows_which_captions_are_true():
    pictures, texts, also_true, present = batches.draw_batch(3, 1, 4)
    again = batches.draw_batch(3, 1, 4)
    assert np.array_equal(pictures, again[0]) and texts == again[1] and np.array_equal(also_true, again[2])
    assert also_true.shape == (4, 4) and also_true.diagonal().all()
    assert present.shape == (4, len(demo.CLASSES)) and (present.sum(1) >= 2).all()  # a thing and a ground at least


def test_the_loss_ignores_captions_that_are_also_true():
    logits, also_true = torch.randn(3, 3), torch.eye(3, dtype=torch.bool)
    also_true[0, 2] = True
    changed = logits.clone()
    changed[0, 2] += 7
    assert contrastive_loss(logits, also_true) == contrastive_loss(changed, also_true)
    own, both = torch.arange(3), torch.nn.functional.cross_entropy
    alone = contrastive_loss(logits, torch.eye(3, dtype=torch.bool))
    golden.assert_equal(alone, (both(logits, own) + both(logits.T, own)) / 2)


def test_the_loss_of_words_is_small_where_patches_choose_what_the_caption_names():
    present = torch.tensor([[True, True, False]])
    right = 9 * torch.nn.functional.one_hot(torch.tensor([[0, 1] * 12]), 3).float()
    absent = 9 * torch.nn.functional.one_hot(torch.tensor([[2, 1] * 12]), 3).float()
    one_only = 9 * torch.nn.functional.one_hot(torch.tensor([[0, 0] * 12]), 3).float()
    best = word_loss(right, present)
    assert best < 0.02 and word_loss(absent, present) > best + 4 and word_loss(one_only, present) > best + 4


@pytest.fixture(scope="module")
def uninterrupted(vocabulary, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    return out, train.train(train.Recipe(**TINY, steps=4, final_steps=2), out, vocabulary, log=lambda line: None)


def test_a_resumed_run_ends_in_the_weights_of_an_uninterrupted_one(vocabulary, uninterrupted, tmp_path):
    out, model = uninterrupted
    recipe = train.Recipe(**TINY, steps=4, final_steps=2)
    train.train(recipe, tmp_path, vocabulary, stop_after=2, log=lambda line: None)
    resumed = train.train(recipe, tmp_path, vocabulary, resume=True, log=lambda line: None)
    for name, value in model.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    one, other = ((folder / "model/model.safetensors").read_bytes() for folder in (out, tmp_path))
    assert one == other


def test_resuming_refuses_another_recipe_and_an_empty_folder(vocabulary, uninterrupted, tmp_path):
    other = train.Recipe(**TINY | {"batch": 4}, steps=4)
    with pytest.raises(ValueError, match="give the same options"):
        train.train(other, uninterrupted[0], vocabulary, resume=True)
    with pytest.raises(FileNotFoundError, match="without --resume"):
        train.train(other, tmp_path, vocabulary, resume=True)


def test_the_trainer_computes_what_transformers_computes(vocabulary, uninterrupted):
    from transformers import CLIPModel

    model = CLIPModel.from_pretrained(uninterrupted[0] / "model").eval()
    pictures, texts, *_ = batches.draw_batch(0, 0, 4)
    ids, pixels = train.make_tokenize(vocabulary)(texts), normalise(pictures)
    with torch.no_grad():
        expected = model(input_ids=ids, pixel_values=pixels, attention_mask=torch.ones_like(ids))
        ours = image_embeddings(model, pixels)
        golden.assert_equal(ours[:, 0], expected.image_embeds)
        golden.assert_equal(text_embeddings(model, ids), expected.text_embeds)
        every = torch.arange(144).expand(4, -1)
        golden.assert_equal(image_embeddings(model, pixels, every, every), ours)
        dense = torch.nn.functional.normalize(sp.dense_features(model, pixels, method="csa"), dim=1)
        patches_alone = ours[:, 1:].transpose(1, 2).unflatten(2, (12, 12))
        # `csa` lets patches attend to CLS, too; the trainer's patches attend to patches.
        assert (dense * patches_alone).sum(1).min() > 0.9


def test_retrieval_counts_galleries(uninterrupted):
    shares = retrieval.retrieval(uninterrupted[0] / "model", scenes=10, gallery=5)
    assert set(shares) == {"caption_of_scene", "scene_of_caption"} and all(0 <= s <= 1 for s in shares.values())
    with pytest.raises(ValueError, match="multiple of 5"):
        retrieval.retrieval(uninterrupted[0] / "model", scenes=7, gallery=5)


def test_the_shipped_checkpoint_is_small_and_loads():
    from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

    folder = demo.demo_model()
    assert sum(file.stat().st_size for file in demo.MODEL_DIR.iterdir()) <= 12 * 2**20
    model, words = CLIPModel.from_pretrained(folder), CLIPTokenizer.from_pretrained(folder)
    assert len(words) == model.config.text_config.vocab_size
    pixels = CLIPImageProcessor.from_pretrained(folder)(
        next(iter(demo.held_out_scenes(1))).picture, return_tensors="pt"
    )
    assert pixels.pixel_values.shape == (1, 3, scenes.WINDOW, scenes.WINDOW)


def test_the_shipped_checkpoint_tells_captions_apart():
    shares = retrieval.retrieval(demo.demo_model(), scenes=40, gallery=20)
    assert shares["caption_of_scene"] > 0.9  # chance is 0.05


def test_with_csa_the_shipped_checkpoint_says_where_things_are():
    from transformers import CLIPModel

    model = CLIPModel.from_pretrained(demo.demo_model()).eval()
    drawn = list(demo.held_out_scenes(24))
    ids = train.make_tokenize(demo.demo_model())([f"a photo of a {name}." for name in demo.CLASSES])
    pixels = normalise(np.stack([np.asarray(scene.picture) for scene in drawn]))
    right = {}
    with torch.no_grad():
        words = text_embeddings(model, ids)
        for method in ("csa", "vanilla"):
            scores = torch.einsum("bdhw,kd->bkhw", sp.dense_features(model, pixels, method=method), words)
            hits = []
            for scene, score in zip(drawn, scores, strict=True):
                truth = scene.label_map[4::8, 4::8]  # the label at the middle of each patch
                named = score.argmax(0).numpy()  # of all 50 classes
                given = np.array([demo.CLASSES.index(name) for name in scene.labels])[truth]
                things = np.isin(truth, [index for index, name in enumerate(scene.labels) if name in THINGS])
                hits.extend((named == given)[things])
            right[method] = np.mean(hits)
    assert right["csa"] > 0.7 and right["csa"] > right["vanilla"], right


def test_a_missing_checkpoint_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(demo, "MODEL_DIR", tmp_path)
    with pytest.raises(ModelLoadError, match="reinstall"):
        demo.demo_model()
