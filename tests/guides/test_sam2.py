"""SAM 2 of transformers: the features that its masks are decoded from."""

import pytest
import torch
import transformers

import sclip_plugin as sp
from sclip_plugin.errors import UnsupportedModelError
from sclip_plugin.guides import find_guide

pytestmark = pytest.mark.skipif(not hasattr(transformers, "Sam2Model"), reason="transformers has no Sam2Model yet")


@pytest.fixture(scope="module")
def sam2():
    from transformers import Sam2Config, Sam2HieraDetConfig, Sam2Model, Sam2VisionConfig

    torch.manual_seed(0)
    widths = [8, 16, 32, 64]
    backbone = Sam2HieraDetConfig(
        hidden_size=8, num_attention_heads=1, image_size=[128, 128], blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=widths, num_attention_heads_per_stage=[1, 2, 4, 8], global_attention_blocks=[3],
    )  # fmt: skip
    vision = Sam2VisionConfig(
        backbone_config=backbone, backbone_channel_list=widths[::-1], fpn_hidden_size=32,
        backbone_feature_sizes=[[32, 32], [16, 16], [8, 8]],
    )  # fmt: skip
    prompts = {"image_size": 128, "hidden_size": 32}
    decoder = {"hidden_size": 32, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 32}
    config = Sam2Config(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder)
    return Sam2Model(config).eval()


@torch.no_grad()
def test_it_sees_what_the_model_decodes_from(sam2):
    pixels = torch.rand(2, 3, 128, 128)
    guide = find_guide(sam2)
    seen = guide.look(pixels)
    embedding = sam2.get_image_embeddings(guide.normalised(pixels))[-1] - sam2.no_memory_embedding[0, 0][:, None, None]
    assert seen.grid == guide.grid((128, 128)) == (8, 8)
    assert (seen.tokens.mT.unflatten(2, seen.grid) - embedding).abs().max() < 1e-6
    assert guide.look(torch.rand(1, 3, 40, 90)).grid == (8, 8)


def test_proxyclip_looks_through_it_and_trident_cannot(sam2):
    scene = sp.draw_scene(0)
    segmenter = sp.Segmenter.from_pretrained("demo")
    assert len(segmenter(scene.picture, list(scene.labels), method="proxyclip", guide=sam2).areas()) > 1
    with pytest.raises(
        UnsupportedModelError, match="trident got Sam2Model for sam; expected SAM: transformers' SamModel"
    ):
        segmenter(scene.picture, list(scene.labels), method="trident", guide=sam2, sam=sam2)
