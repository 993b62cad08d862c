"""The published procedure, written plainly: what the speed benchmark measures the package against.

Window by window, one forward each; attention maps formed in full; padded accumulation over the whole picture; 77 text
positions for every prompt, one name at a time, no cache; scores at full size for all names at once, and class maxima
over an array of classes x names x pixels, as SCLIP's code has them.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F


def last_block_csa(block, x):
    """(1, T, C) through the last block with both attention maps formed."""
    attention = block.attn
    heads, width = attention.num_heads, x.shape[-1]
    normed = block.ln_1(x)
    q, k, v = F.linear(normed, attention.in_proj_weight, attention.in_proj_bias).chunk(3, dim=-1)
    q, k, v = (t.view(len(x), -1, heads, width // heads).transpose(1, 2) for t in (q, k, v))
    scale = (width // heads) ** -0.5
    weights = (scale * q @ q.transpose(-1, -2)).softmax(-1) + (scale * k @ k.transpose(-1, -2)).softmax(-1)
    x = x + attention.out_proj((weights @ v).transpose(1, 2).flatten(2))
    return x + block.mlp(block.ln_2(x))


def image_features(visual, pixels):
    """Projected tokens (1, 1 + N, D) of one window of the tower's native size."""
    x = visual.conv1(pixels).flatten(2).transpose(1, 2)
    x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], dim=1) + visual.positional_embedding
    x = visual.ln_pre(x)
    for block in visual.transformer.resblocks[:-1]:
        x = block(x)
    return visual.ln_post(last_block_csa(visual.transformer.resblocks[-1], x)) @ visual.proj


@torch.inference_mode()
def text_bank(model, tokenizer, names, templates):
    rows = []
    for name in names:
        embedded = model.encode_text(tokenizer([template.format(name) for template in templates]))
        embedded = embedded / embedded.norm(dim=-1, keepdim=True)
        mean = embedded.mean(dim=0)
        rows.append(mean / mean.norm())
    return torch.stack(rows)


@torch.inference_mode()
def segment(visual, *, picture, text, size, window, stride, logit_scale, mean, std, class_of_name):
    """A picture (H, W, 3) uint8 to its label map (H, W)."""
    height, width = picture.shape[:2]
    resized = cv2.resize(picture, size[::-1], interpolation=cv2.INTER_LINEAR)
    device, patch = text.device, visual.patch_size[0]
    pixels = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1))).to(device).float()[None]
    pixels = (pixels / 255 - mean.to(device)[:, None, None]) / std.to(device)[:, None, None]
    pixels = pixels.to(visual.proj.dtype)
    total = pixels.new_zeros(1, len(text), *size)
    count = pixels.new_zeros(1, 1, *size)
    rows = max(size[0] - window + stride - 1, 0) // stride + 1
    columns = max(size[1] - window + stride - 1, 0) // stride + 1
    for row in range(rows):
        for column in range(columns):
            bottom, right = min(row * stride + window, size[0]), min(column * stride + window, size[1])
            top, left = max(bottom - window, 0), max(right - window, 0)
            crop = pixels[:, :, top:bottom, left:right]
            features = image_features(visual, crop)[:, 1:]
            features = features / features.norm(dim=-1, keepdim=True)
            logits = (features @ text.to(features.dtype).T).transpose(1, 2)
            logits = logits.view(1, len(text), crop.shape[2] // patch, crop.shape[3] // patch)
            logits = F.interpolate(logits, size=crop.shape[-2:], mode="bilinear", align_corners=False)
            total += F.pad(logits, (left, size[1] - right, top, size[0] - bottom))
            count[:, :, top:bottom, left:right] += 1
    logits = F.interpolate(total / count, size=(height, width), mode="bilinear", align_corners=False)[0]
    scores = (logits * logit_scale).softmax(dim=0)
    index = torch.tensor(class_of_name, device=device)
    classes = int(index.max()) + 1
    if classes != len(class_of_name):
        member = F.one_hot(index).T.view(classes, len(index), 1, 1)
        scores = (scores[None] * member).max(dim=1).values
    return scores.argmax(dim=0)
