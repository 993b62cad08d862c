"""CLIP-DINOiser against its authors' arrays, on every framework; its checkpoint, and what is refused."""

from __future__ import annotations

import golden
import pytest
import torch
import torch.nn.functional as F

import sclip_plugin as sp
from sclip_plugin.errors import FileFormatError, UnsupportedModelError
from sclip_plugin.guides.dinoiser import load_dinoiser
from sclip_plugin.methods import make_method
from sclip_plugin.steps.dinoiser import DINOiser
from sclip_plugin.towers import find_tower

from .models import golden_model, pixels, random_model

pytestmark = pytest.mark.usefixtures("without_gradients", "own_registries")

THEIRS = golden.arrays("CLIP-DINOiser")
WEIGHTS = {name: tensor for name, tensor in THEIRS.items() if name.startswith(("obj_proj", "bkg_decoder"))}
# Completed in black before it was normalised.
BLACK = torch.tensor([-0.48145466 / 0.26862954, -0.4578275 / 0.26130258, -0.40821073 / 0.27577711])[:, None, None]
PADDED = BLACK.expand(3, 96, 160).clone()
PADDED[:, :90, :150] = golden.arrays("inputs")["small"][0]
PICTURES = {size: golden.arrays("inputs")[f"pixels.{size}"] for size in golden.SIZES} | {"padded_90x150": PADDED[None]}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """As the authors save it."""
    path = tmp_path_factory.mktemp("dinoiser") / "last.pt"
    torch.save({"epoch": 100, "model_state_dict": WEIGHTS}, path)
    return str(path)


@pytest.mark.parametrize("framework", golden.FRAMEWORKS)
@pytest.mark.parametrize("size", PICTURES)
def test_features(framework, size, checkpoint):
    tower, method = find_tower(golden.model(framework)), make_method("dinoiser", {"weights": checkpoint})
    plain = sp.dense_features(tower, PICTURES[size], "maskclip", residual=True, ffn=True, position_resize="size")
    golden.assert_equal(plain, THEIRS[f"maskclip_with_residual.{size}.features"])
    block, context = method.reach_last_block(tower, PICTURES[size][:1])
    tap = context.taps[9]
    A = method.correlations(tap.norm2(tap.after_attention())[:, context.prefix_tokens :], context.grid)
    golden.assert_equal(A, THEIRS[f"dinoiser.{size}.correlations_first"])
    golden.assert_equal(sp.dense_features(tower, PICTURES[size], method), THEIRS[f"dinoiser.{size}.features"])


@pytest.mark.parametrize("size", PICTURES)
def test_probabilities_and_background(size, checkpoint):
    seg = sp.Segmenter(
        golden.model(), golden.tokenizer(), method="dinoiser", weights=checkpoint, logit_scale=100,
        window=0, resize_short_side=0, cache_dir=False,
    )  # fmt: skip
    for index, picture in enumerate(PICTURES[size]):
        for row, step in [
            ("probs", "dinoiser"),
            ("background_probs", f"dinoiser(weights={checkpoint!r})"),
            ("background_probs_delta0.5", f"dinoiser(weights={checkpoint!r}, delta=0.5)"),
        ]:
            labels = dict(zip(("background", "b", "c", "d", "e"), THEIRS["text_bank"].numpy(), strict=True))
            h, w = picture.shape[1] // 16, picture.shape[2] // 16
            result = seg(golden.prepared(picture, (h, w)), labels, steps=(step,))
            # At the size of the patches: the mean of the pixels that bilinear resizing reads there.
            theirs = F.interpolate(
                THEIRS[f"dinoiser.{size}.{row}.{index}"], size=picture.shape[1:], mode="bilinear", align_corners=False
            )
            theirs = F.interpolate(theirs, size=(h, w), mode="bilinear", align_corners=False)[0]
            golden.assert_equal(torch.from_numpy(result.scores), theirs)


@pytest.mark.parametrize("method", ["dinoiser", "clearclip(position_resize='size')"])
@pytest.mark.parametrize("size", PICTURES)
def test_the_decoder(size, method, checkpoint):
    """The step is shown the third last block during the first pass, so it can follow any method."""
    seen, step = {}, DINOiser(weights=checkpoint)

    @sp.register_step("kept")
    class Kept(sp.Step):
        on = "patches"

        def taps(self, depth):
            return step.taps(depth)

        def look(self, context):
            return step.look(context)

        def __call__(self, given):
            seen["decoded"] = given.looked
            return given.scores

    weights = {"weights": checkpoint} if method == "dinoiser" else {}
    seg = sp.Segmenter(golden.model(), golden.tokenizer(), window=0, cache_dir=False, steps=["kept"])
    for index, picture in enumerate(PICTURES[size]):
        seg(golden.prepared(picture), ["cat", "dog"], method=method, **weights)
        golden.assert_equal(seen["decoded"][0], THEIRS[f"dinoiser.{size}.background"][index, 0])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"obj_proj.bias": None}, "holds no tensor 'obj_proj.bias'"),
        ({"obj_proj.weight": torch.zeros(32, 128, 1, 1)}, "obj_proj.weight.*expected"),
        ({"obj_proj.bias": torch.zeros(31)}, "obj_proj.bias"),
        ({"bkg_decoder.weight": torch.zeros(1, 96, 1, 1)}, "bkg_decoder.weight"),
        ({"bkg_decoder.bias": torch.tensor([float("nan")])}, "finite"),
        ({"bkg_decoder.bias": torch.zeros(1, dtype=torch.int64)}, "finite"),
    ],
    ids=str,
)
def test_a_checkpoint_of_another_layout(change, said, tmp_path):
    state = {name: tensor for name, tensor in {**WEIGHTS, **change}.items() if tensor is not None}
    torch.save({"model_state_dict": state}, tmp_path / "last.pt")
    with pytest.raises(FileFormatError, match=said):
        load_dinoiser(tmp_path / "last.pt")


def test_files_that_are_none(tmp_path):
    (tmp_path / "text.pt").write_text("no tensors here")
    torch.save({"code": golden.checkpoint}, tmp_path / "code.pt")
    for name in ("text.pt", "code.pt"):
        with pytest.raises(FileFormatError, match="can't be read"):
            load_dinoiser(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        load_dinoiser(tmp_path / "missing.pt")


def test_the_four_tensors_alone_as_safetensors(tmp_path):
    from safetensors.torch import save_file

    save_file(WEIGHTS, tmp_path / "weights.bin")
    held = load_dinoiser(tmp_path / "weights.bin")
    assert all(torch.equal(held[name], WEIGHTS[name]) for name in WEIGHTS)


def test_what_it_refuses(checkpoint):
    with pytest.raises(UnsupportedModelError, match="width 128, and this one has 32"):
        sp.dense_features(random_model(4), pixels(32, 32), "dinoiser", weights=checkpoint)
    with pytest.raises(ValueError, match="weights=FILE"):
        sp.dense_features(golden_model(), pixels(112, 112), "dinoiser")
    with pytest.raises(UnsupportedModelError, match="in place"):
        sp.apply(golden.model(), "dinoiser", weights=checkpoint)


def test_embeddings_of_windows_are_the_models_own(checkpoint):
    """They are asked of the ordinary block, although the method gives no prefix rows."""
    seg = sp.Segmenter(golden.model(), golden.tokenizer(), cache_dir=False, resize_short_side=112)
    picture = sp.draw_scene(seed=1).picture
    ours, plain = seg.encode(picture, method="dinoiser", weights=checkpoint), seg.encode(picture, method="vanilla")
    assert torch.allclose(ours.image, plain.image, atol=1e-5)
    assert ours.windows.shape == plain.windows.shape
