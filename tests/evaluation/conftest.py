"""A small model for tests that need one but not what it says."""

import pytest


@pytest.fixture(scope="session")
def tiny_segmenter():
    """A CLIP of random weights; what it says is of no interest, only that the same is said twice."""
    open_clip = pytest.importorskip("open_clip", reason="its tokenizer is used")
    transformers = pytest.importorskip("transformers")
    import torch

    from sclip_plugin.segment.segmenter import Segmenter

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "projection_dim": 16}
    config = transformers.CLIPConfig(
        projection_dim=16,
        text_config={**sizes, "num_hidden_layers": 2, "vocab_size": 49408, "eos_token_id": 49407},
        vision_config={**sizes, "num_hidden_layers": 12, "image_size": 112, "patch_size": 16},
    )
    return Segmenter(transformers.CLIPModel(config), open_clip.get_tokenizer("ViT-B-16"), cache_dir=False)
