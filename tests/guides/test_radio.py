"""C-RADIO of transformers: its own features, in any shape of picture."""

import pytest
import timm
import torch
import transformers

import sclip_plugin as sp
from sclip_plugin.errors import UnsupportedModelError
from sclip_plugin.guides import find_guide

needs_radio = pytest.mark.skipif(not hasattr(transformers, "RadioModel"), reason="transformers has no RadioModel yet")


@pytest.fixture
def radio():
    torch.manual_seed(0)
    config = transformers.RadioConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=4, patch_size=8, max_img_size=128,
        attn_implementation="eager",
    )  # fmt: skip
    return transformers.RadioModel(config).eval()


@needs_radio
@pytest.mark.parametrize("size", [(48, 64), (64, 64), (40, 160), (8, 8)])
@torch.no_grad()
def test_it_sees_what_the_model_sees(radio, size):
    pixels = torch.rand(2, 3, *size)
    seen = find_guide(radio).look(pixels)
    output = radio(pixels, output_attentions=True)
    assert torch.equal(seen.tokens, output.features)
    count = seen.grid[0] * seen.grid[1]
    attention = torch.stack([seen.attention(head, slice(0, count)) for head in range(4)], dim=1)
    assert (attention - output.attentions[-1][:, :, -count:, -count:]).abs().max() < 1e-6
    assert seen.heads("v").shape == (2, 4, count, 8)


@needs_radio
@torch.no_grad()
def test_pixels_that_fill_no_patch_are_not_seen(radio):
    guide, pixels = find_guide(radio), torch.rand(1, 3, 48, 64)
    more = torch.nn.functional.pad(pixels, (0, 5, 0, 3), value=0.5)
    assert torch.equal(guide.look(more).tokens, guide.look(pixels).tokens)
    assert guide.look(pixels[..., :3, :3]).tokens.isfinite().all()


@needs_radio
def test_proxyclip_looks_through_it(radio):
    scene = sp.draw_scene(0)
    result = sp.Segmenter.from_pretrained("demo")(scene.picture, list(scene.labels), method="proxyclip", guide=radio)
    assert len(result.areas()) > 1


@needs_radio
def test_without_its_conditioner_it_is_refused(radio):
    radio.make_preprocessor_external()
    with pytest.raises(UnsupportedModelError, match="does not say how to normalise"):
        find_guide(radio)


def test_timms_port_is_refused():
    """It resizes positions to the grid, where the authors crop a square."""
    names = [name for name in timm.list_models("vit_*radio*")]
    if not names:
        pytest.skip("this timm has no C-RADIO")
    with pytest.raises(UnsupportedModelError, match="C-RADIO: transformers' RadioModel"):
        find_guide(timm.create_model(names[0], depth=1))
