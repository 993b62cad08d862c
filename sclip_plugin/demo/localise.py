"""Give the last block, while training, the two traits of a long-trained CLIP that dense methods live on.

A contrastive loss sees the last block through its CLS token alone, so what the block makes of patches is what the start
of training and millions of pictures happen to leave there. Large CLIPs end up with queries and keys that tell patches
apart, and with an attention that outweighs the residual stream. A run of some minutes does not get there alone; this
sets both once, from the model and some pictures, without captions or masks, and training goes on from there.
"""

import torch
import torch.nn.functional as F

from sclip_plugin.demo.network import last_block_input


@torch.no_grad()
def localise(model, pixels, spread=8.0, weight=6.0, calm=0.1, read=24, seed=0):
    """Sharpen the patches' queries and keys of the last block, and let its attention weigh more; changes `model`.

    Queries get a random projection of what CLS tokens do not contain, keys one at right angles to the CLS token's
    query, so that patches become distinguishable to one another and not to CLS.

    Args:
        model: CLIPModel.
        pixels: (B, 3, H, W) normalised pictures that the token statistics are taken from; B > read.
        spread: norm per head that the new part of queries and keys has, on average over patches.
        weight: factor for the attention's output, against residual and FFN.
        calm: factor for what CLS asks for. Left to itself, it reads a few patches and the values of the others learn
            nothing; a CLS token that looks at all patches alike teaches the value of each.
        read: number of leading directions of CLS tokens to leave alone.
        seed: of the random projections.
    """
    attention = model.vision_model.encoder.layers[-1].self_attn
    normed = last_block_input(model, pixels)
    width, heads = normed.shape[-1], attention.num_heads
    first, patches = normed[:, 0], normed[:, 1:].flatten(0, 1)
    centred = patches - patches.mean(0)
    generator = torch.Generator().manual_seed(seed)

    def scaled(projection):
        norms = (centred @ projection.T).unflatten(-1, (heads, -1)).norm(dim=-1)
        return projection * (spread / norms.mean())

    directions = torch.linalg.svd(first, full_matrices=False).Vh[:read]
    unread = torch.eye(width) - directions.T @ directions
    queries = scaled(torch.randn(width, width, generator=generator) @ unread)

    asked = F.normalize(attention.q_proj(first).unflatten(-1, (heads, -1)).mean(0), dim=-1)[..., None]
    free = torch.randn(heads, width // heads, width, generator=generator)
    keys = scaled((free - asked * (asked * free).sum(1, keepdim=True)).flatten(0, 1))

    attention.q_proj.weight.mul_(calm).add_(queries)
    attention.q_proj.bias.mul_(calm)
    attention.k_proj.weight.add_(keys)
    attention.k_proj.bias.sub_(keys @ patches.mean(0))
    attention.out_proj.weight.mul_(weight)
    attention.out_proj.bias.mul_(weight)
