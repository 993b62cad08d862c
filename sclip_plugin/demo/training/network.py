"""The demo's network for training: transformers' CLIPModel, computed without what a training step does not ask for.

The weights stay in the model; `image_embeddings` and `text_embeddings` give what its own forward gives, at less cost.
"""

import numpy as np
import torch
import torch.nn.functional as F

from sclip_plugin.defaults import CLIP_MEAN, CLIP_STD
from sclip_plugin.demo.scenes import WINDOW
from sclip_plugin.demo.training.tokenizer import POSITIONS

PATCH = 8
MEAN, STD = CLIP_MEAN, CLIP_STD  # so that no preprocessing is special to the demo


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


def _heads(attention, x):
    return x.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)


def _attend(q, k, v, causal=False):
    """Softmax attention, written out: several times faster on a CPU, for so few tokens, than torch's fused one."""
    scores = q @ k.mT * q.shape[-1] ** -0.5
    if causal:
        scores = scores + torch.full(scores.shape[-2:], -torch.inf).triu(1)
    return scores.softmax(-1).to(v.dtype) @ v


def _finish(layer, tokens, mixed):
    """What a block does after its attention: projection, residual and FFN."""
    tokens = tokens + layer.self_attn.out_proj(mixed.transpose(1, 2).flatten(2))
    return tokens + layer.mlp(layer.layer_norm2(tokens))


def _block(layer, tokens, causal=False):
    """One pre-norm block of CLIP."""
    attention, normed = layer.self_attn, layer.layer_norm1(tokens)
    q, k, v = (_heads(attention, part(normed)) for part in (attention.q_proj, attention.k_proj, attention.v_proj))
    return _finish(layer, tokens, _attend(q, k, v, causal))


def _last_block(layer, tokens):
    """The last block: CLS by its own attention, as in CLIP; patches by correlative self-attention, as `csa` has it."""
    attention, normed = layer.self_attn, layer.layer_norm1(tokens)
    q, k, v = (_heads(attention, part(normed)) for part in (attention.q_proj, attention.k_proj, attention.v_proj))
    first = _attend(q[:, :, :1], k, v)
    patches = sum(_attend(x[:, :, 1:], x, v) for x in (q, k))
    return _finish(layer, tokens, torch.cat([first, patches], 2))


def image_embeddings(model, pixels, places=None, kept=None):
    """Embed pictures and their patches.

    Args:
        model: CLIPModel.
        pixels: (B, 3, H, W) normalised float.
        places: (B, N) which position of the model's grid each patch takes, for pictures smaller than the
            grid; None where they fill it.
        kept: (B, n) indices of the patches to look at; None for all.

    Returns:
        (B, 1 + n, D) unit-length embeddings: first the picture's, as `CLIPModel.get_image_features` gives it, then
        those of the patches, as `csa` gives them.
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
    tokens = vision.post_layernorm(_last_block(last, tokens))
    return F.normalize(model.visual_projection(tokens).float(), dim=-1)


def text_embeddings(model, ids):
    """Embed token ids (B, L), padded with the end-of-text token, as `CLIPModel.get_text_features` does; (B, D)."""
    text = model.text_model
    ends = (ids == text.config.eos_token_id).int().argmax(1)
    order, found = ends.argsort(), []
    for part in order.chunk(4):  # texts of about one length together, cut after their ends: less padding to compute
        found.append(_text_states(text, ids[part, : int(ends[part].max()) + 1], ends[part]))
    return F.normalize(model.text_projection(torch.cat(found)[order.argsort()]).float(), dim=-1)


def _text_states(text, ids, ends):
    tokens = text.embeddings.token_embedding(ids) + text.embeddings.position_embedding.weight[: ids.shape[1]]
    for layer in text.encoder.layers:
        tokens = _block(layer, tokens, causal=True)
    return text.final_layer_norm(tokens[torch.arange(len(ids)), ends])


def contrastive_loss(logits, also_true):
    """CLIP's loss in both directions, without the pairs that would teach that a true caption is wrong.

    Args:
        logits: (B, B); a picture's own caption is on the diagonal.
        also_true: (B, B) bool, where a caption is true of a picture.

    Returns:
        scalar tensor.
    """
    own = torch.eye(len(logits), dtype=torch.bool)
    logits, right = logits.masked_fill(also_true & ~own, -torch.inf), torch.arange(len(logits))
    return (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2


def word_loss(logits, present):
    """How badly patches and the words of the captions explain each other; no mask tells which patch is which word.

    Each patch chooses among all words. What it chooses should be in the caption, and each word of the caption should
    be chosen by some patches (a twelfth of them).

    Args:
        logits: (B, N, K) of patches and words.
        present: (B, K) bool, the words in a picture's full caption.

    Returns:
        scalar tensor.
    """
    chosen = logits.log_softmax(-1)
    in_caption = chosen.masked_fill(~present[:, None], -torch.inf).logsumexp(-1)
    best = chosen.topk(max(1, logits.shape[1] // 12), 1).values
    found = best.logsumexp(1) - np.log(best.shape[1])
    return -in_caption.mean() - found[present].mean()


def normalise(pictures):
    """(B, H, W, 3) uint8 array to (B, 3, H, W) float tensor in CLIP's normalisation."""
    pixels = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float()
    return (pixels / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
