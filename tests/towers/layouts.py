"""Image towers in layouts whose own packages cannot be installed: written here from what their checkpoints hold.

CLIP-MoE (OpenSparseLLMs/CLIP-MoE) and Alpha-CLIP (SunzeY/AlphaCLIP): OpenAI's tower with other blocks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class OpenAILayout(nn.Module):
    """A tower whose blocks take (tokens, batch, width), as OpenAI's do."""

    def __init__(self, blocks: list[nn.Module], width=32, side=32, patch=8, joint=24) -> None:
        super().__init__()
        self.input_resolution, self.output_dim = side, joint
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.positional_embedding = nn.Parameter(torch.zeros((side // patch) ** 2 + 1, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList(blocks)
        self.proj = nn.Parameter(torch.zeros(width, joint))

    def cut(self, pixels: Tensor) -> Tensor:
        return self.conv1(pixels)

    def tokens(self, pixels: Tensor) -> Tensor:
        patches = self.cut(pixels).flatten(2).mT
        tokens = torch.cat([self.class_embedding.expand(len(patches), 1, -1), patches], dim=1)
        tokens = self.ln_pre(tokens + self.positional_embedding).transpose(0, 1)
        for block in self.transformer.resblocks:
            output = block(tokens)
            tokens = output[0] if isinstance(output, tuple) else output
        return self.ln_post(tokens.transpose(0, 1))


def mlp(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))


class PlainBlock(nn.Module):
    def __init__(self, width: int = 32, heads: int = 2) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = mlp(width)

    def forward(self, tokens: Tensor):
        x = self.ln_1(tokens)
        tokens = tokens + self.attn(x, x, x, need_weights=False)[0]
        return tokens + self.mlp(self.ln_2(tokens))


class MoEBlock(PlainBlock):
    """Returns the tokens and the router's logits; each token goes to its two best experts."""

    top_k = 2

    def __init__(self, width: int = 32, heads: int = 2, experts: int = 4) -> None:
        super().__init__(width, heads)
        del self.mlp
        self.experts = nn.ModuleList(mlp(width) for _ in range(experts))
        self.gate = nn.Linear(width, experts, bias=False)

    def forward(self, tokens: Tensor):
        x = self.ln_1(tokens)
        tokens = tokens + self.attn(x, x, x, need_weights=False)[0]
        x = self.ln_2(tokens)
        logits = self.gate(x)
        best, chosen = logits.softmax(dim=-1).topk(self.top_k, dim=-1)
        best = best / best.sum(dim=-1, keepdim=True)
        outputs = torch.stack([expert(x) for expert in self.experts], dim=-2)
        taken = outputs.gather(-2, chosen[..., None].expand(*chosen.shape, x.shape[-1]))
        return tokens + (best[..., None] * taken).sum(dim=-2), logits


class MoETower(OpenAILayout):
    MoE_args = (4, 2, 0.0, 3)

    def __init__(self) -> None:
        super().__init__([PlainBlock(), PlainBlock(), PlainBlock(), MoEBlock(), MoEBlock(), MoEBlock()])

    def forward(self, pixels: Tensor):
        return self.tokens(pixels)[:, 0] @ self.proj, "logits of the routers"


class AlphaAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = heads, width // heads
        self.in_proj, self.out_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        def heads(part: Tensor) -> Tensor:
            return part.unflatten(2, (self.num_heads, -1)).permute(1, 2, 0, 3)

        q, k, v = map(heads, self.in_proj(x).chunk(3, dim=-1))
        attended = (q @ k.mT * self.head_dim**-0.5).softmax(dim=-1) @ v
        return self.out_proj(attended.permute(2, 0, 1, 3).flatten(2))


class AlphaBlock(PlainBlock):
    def __init__(self, width: int = 32, heads: int = 2) -> None:
        super().__init__(width, heads)
        self.attn = AlphaAttention(width, heads)

    def forward(self, tokens: Tensor):
        tokens = tokens + self.attn(self.ln_1(tokens))
        return tokens + self.mlp(self.ln_2(tokens))


class AlphaTower(OpenAILayout):
    """Its forward takes an alpha, (B, 1, H, W), normalised; here it may be left out, which means all of the picture."""

    def __init__(self) -> None:
        super().__init__([AlphaBlock() for _ in range(6)])
        self.conv1_alpha = nn.Conv2d(1, 32, 8, 8, bias=False)

    def cut(self, pixels: Tensor) -> Tensor:
        return self.conv1(pixels[:, :3]) + self.conv1_alpha(pixels[:, 3:])

    def tokens(self, pixels: Tensor, alpha: Tensor | None = None) -> Tensor:
        alpha = torch.full_like(pixels[:, :1], (1 - 0.5) / 0.26) if alpha is None else alpha
        return super().tokens(torch.cat([pixels, alpha], dim=1))

    def forward(self, pixels: Tensor, alpha: Tensor | None = None):
        return self.tokens(pixels, alpha)[:, 0] @ self.proj
