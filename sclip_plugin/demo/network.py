"""The demo's network for training: transformers' CLIPModel, computed without what a training step does not ask for.

The weights stay in the model; `image_embeddings` and `text_embeddings` give what its own forward gives, at less cost.
"""

import numpy as np
import torch
import torch.nn.functional as F

from sclip_plugin.demo.scenes import WINDOW
from sclip_plugin.demo.tokenizer import POSITIONS

PATCH = 8
# CLIP's own, so that no preprocessing is special to the demo
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def build_model(recipe, vocabulary):
    """A fresh transformers CLIPModel in the size of a `train.Recipe`, for a vocabulary of so many tokens."""
    from transformers import CLIPConfig, CLIPModel

    end = vocabulary - 1
    text = dict(
        vocab_size=vocabulary, hidden_size=recipe.text_width, intermediate_size=4 * recipe.text_width,
        num_hidden_layers=recipe.text_depth, num_attention_heads=recipe.text_width // recipe.head,
        max_position_embeddings=POSITIONS, bos_token_id=end - 1, eos_token_id=end, pad_token_id=end,
        projection_dim=recipe.joint, hidden_act="gelu",
    )  # fmt: skip
    vision = dict(
        hidden_size=recipe.width, intermediate_size=4 * recipe.width, num_hidden_layers=recipe.depth,
        num_attention_heads=recipe.width // recipe.head, image_size=WINDOW, patch_size=PATCH,
        projection_dim=recipe.joint, hidden_act="gelu",
    )  # fmt: skip
    torch.manual_seed(recipe.seed)
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=recipe.joint))


def _block(layer, tokens, causal=False, first_only=False):
    """One pre-norm block of CLIP; `first_only` gives the first token alone, all that is asked of the last block."""
    attention, normed = layer.self_attn, layer.layer_norm1(tokens)
    asking = tokens[:, :1] if first_only else tokens
    q = attention.q_proj(normed[:, :1] if first_only else normed)

    def heads(x):
        return x.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)

    mixed = F.scaled_dot_product_attention(
        heads(q), heads(attention.k_proj(normed)), heads(attention.v_proj(normed)), is_causal=causal
    )
    asking = asking + attention.out_proj(mixed.transpose(1, 2).flatten(2))
    return asking + layer.mlp(layer.layer_norm2(asking))


def image_embeddings(model, pixels, places=None, kept=None, hidden=None):
    """Embed pictures as `CLIPModel.get_image_features` does, faster where only a part of the patches is kept.

    Args:
        model: CLIPModel.
        pixels: (B, 3, H, W) normalised float.
        places: (B, N) which position of the model's grid each patch takes, for pictures smaller than the
            grid; None where they fill it.
        kept: (B, n) indices of the patches to look at; None for all.
        hidden: (B,) bool, pictures whose CLS token comes to the last block without what it gathered in earlier ones (as
            the mean of the batch's), so that the last block's values must tell what is there; None for none.

    Returns:
        (B, D) unit-length embeddings.
    """
    vision = model.vision_model
    embeddings = vision.embeddings
    size = embeddings.patch_size
    patches = pixels.unfold(2, size, size).unfold(3, size, size).permute(0, 2, 3, 1, 4, 5).flatten(1, 2).flatten(2)
    positions = embeddings.position_embedding.weight
    if places is None:
        places = torch.arange(patches.shape[1]).expand(len(pixels), -1)
    if kept is not None:
        patches = patches.gather(1, kept[..., None].expand(-1, -1, patches.shape[-1]))
        places = places.gather(1, kept)
    patches = patches @ embeddings.patch_embedding.weight.flatten(1).T + positions[1:][places]
    first = (embeddings.class_embedding + positions[0]).expand(len(pixels), 1, -1)
    tokens = vision.pre_layrnorm(torch.cat([first, patches], 1))
    *blocks, last = vision.encoder.layers
    for layer in blocks:
        tokens = _block(layer, tokens)
    if hidden is not None:
        first = tokens[:, :1]
        tokens = torch.cat([torch.where(hidden[:, None, None], first.mean(0, keepdim=True), first), tokens[:, 1:]], 1)
    pooled = vision.post_layernorm(_block(last, tokens, first_only=True)[:, 0])
    return F.normalize(model.visual_projection(pooled), dim=-1)


def last_block_input(model, pixels):
    """Tokens as the last block's queries, keys and values are computed from; (B, 1 + N, C), the CLS token first."""
    vision = model.vision_model
    tokens = vision.pre_layrnorm(vision.embeddings(pixels))
    *blocks, last = vision.encoder.layers
    for layer in blocks:
        tokens = _block(layer, tokens)
    return last.layer_norm1(tokens)


def text_embeddings(model, ids):
    """Embed token ids (B, L), padded with the end-of-text token, as `CLIPModel.get_text_features` does; (B, D)."""
    text = model.text_model
    ends = (ids == text.config.eos_token_id).int().argmax(1)
    order, found = ends.argsort(), []
    for part in order.chunk(4):  # texts of about one length together, cut after their ends: less padding to compute
        found.append(_text_states(text, ids[part, : int(ends[part].max()) + 1], ends[part]))
    return F.normalize(model.text_projection(torch.cat(found)[order.argsort()]), dim=-1)


def _text_states(text, ids, ends):
    tokens = text.embeddings.token_embedding(ids) + text.embeddings.position_embedding.weight[: ids.shape[1]]
    for layer in text.encoder.layers:
        tokens = _block(layer, tokens, causal=True)
    return text.final_layer_norm(tokens[torch.arange(len(ids)), ends])


def contrastive_loss(logits, also_true):
    """CLIP's loss in both directions, without the pairs that would teach that a true caption is wrong.

    Args:
        logits: (B, B * C); caption j is of picture j // C.
        also_true: (B, B * C) bool, where a caption is true of a picture.

    Returns:
        scalar tensor.
    """
    count = logits.shape[1]
    own = torch.arange(count) // (count // len(logits))
    positive = logits[own, torch.arange(count)]
    wrong = logits.masked_fill(also_true, -torch.inf)
    over_texts = torch.logaddexp(positive, wrong.logsumexp(1)[own]) - positive
    over_pictures = torch.logaddexp(positive, wrong.logsumexp(0)) - positive
    return (over_texts.mean() + over_pictures.mean()) / 2


def normalise(pictures):
    """(B, H, W, 3) uint8 array to (B, 3, H, W) float tensor in CLIP's normalisation."""
    pixels = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float()
    return (pixels / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
