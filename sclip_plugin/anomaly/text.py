"""The pair that patches are compared with: words for normal and abnormal states, or AnomalyCLIP's learned prompts."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..device import without_autocast
from ..errors import FileFormatError, UnsupportedModelError
from ..storage.tensors import Shape, load_tensors
from ..text.bank import TextBank
from ..text.base import TextTower
from ..text.causal import CausalTextTower
from ..text.towers import ProvenTextTower

NORMAL = (
    "{}", "flawless {}", "perfect {}", "unblemished {}", "{} without flaw", "{} without defect", "{} without damage",
)  # fmt: skip
ABNORMAL = ("damaged {}", "broken {}", "{} with flaw", "{} with defect", "{} with damage")
"""States in words, as WinCLIP (arXiv 2303.14814) has them."""

DEEP = 8
LEARNED: dict[str, Shape] = {
    "ctx_pos": (1, 1, "L", "C"),
    "ctx_neg": (1, 1, "L", "C"),
    **{f"compound_prompts_text.{i}": ("M", "C") for i in range(DEEP)},
}


def state_pair(bank: TextBank, thing: str, templates: tuple[str, ...]) -> Tensor:
    """The unit embeddings (2, D) of a thing as it should be and not: over templates, then over states, the mean."""
    states = [[state.replace("{}", thing) for state in kind] for kind in (NORMAL, ABNORMAL)]
    return torch.stack([F.normalize(bank.embed(names, templates).mean(dim=0), dim=0) for names in states])


def load_prompts(path: str | Path) -> dict[str, Tensor]:
    """Of AnomalyCLIP's checkpoint, ``{"prompt_learner": …}``, what its text is made of; the rest is left alone.

    Raises:
        FileNotFoundError, FileFormatError: as `load_tensors`.
    """
    return load_tensors(path, LEARNED, under="prompt_learner")


@torch.inference_mode()
def learned_pair(tower: TextTower, prompts: dict[str, Tensor]) -> Tensor:
    """Embeddings (2, D), not normalised, of "[V]… object." and "[W]… damaged object.", deep prompts in the text blocks.

    Before the blocks 2 … 9 the tokens at positions 1 … M are replaced by learned ones, rounded to half precision.

    Args:
        tower: a causal one (CLIP's).
        prompts: of `load_prompts`.

    Raises:
        UnsupportedModelError: a text tower that is not CLIP's.
        FileFormatError: prompts for a text tower of another width.

    Source: AnomalyCLIP, arXiv 2310.18961.
    """
    causal = tower.chosen if isinstance(tower, ProvenTextTower) else tower
    if not isinstance(causal, CausalTextTower):
        raise UnsupportedModelError("learned prompts go into the blocks of CLIP's causal text tower; this is another.")
    width, length = causal.positions.shape[1], prompts["ctx_pos"].shape[2]
    if prompts["ctx_pos"].shape[3] != width:
        raise FileFormatError(
            f"the prompts were learned for a text tower of width {prompts['ctx_pos'].shape[3]}, and this one has "
            f"{width}; AnomalyCLIP's own fit ViT-L/14@336px of OpenAI."
        )
    words = " ".join(["X"] * length)
    ids = causal.ids_of([f"{words} object.", f"{words} damaged object."])
    deep = [prompts[f"compound_prompts_text.{i}"].half() for i in range(DEEP)]
    with without_autocast(causal.device):
        rows = [
            _encode(causal, row, prompts[name][0, 0], deep)
            for row, name in zip(ids, ("ctx_pos", "ctx_neg"), strict=True)
        ]
    return torch.cat(rows).float()


def _encode(tower: CausalTextTower, ids: list[int], context: Tensor, deep: list[Tensor]) -> Tensor:
    device, dtype = tower.device, tower.dtype
    x = tower.token_embedding(torch.tensor([ids], device=device)).to(dtype)
    x = torch.cat([x[:, :1], context[None].to(device, dtype), x[:, 1 + len(context) :]], dim=1)
    x = x + tower.positions[: len(ids)].to(dtype)
    for index, block in enumerate(tower.blocks):
        if 1 <= index <= len(deep):
            learned = deep[index - 1][None].to(device, dtype)
            x = torch.cat([x[:, :1], learned, x[:, 1 + learned.shape[1] :]], dim=1)
        step = tower.block_input(block, x)
        x = x + step.out(F.scaled_dot_product_attention(step.q, step.k, step.v, is_causal=True, scale=step.scale))
        x = x + step.at(x).ffn(x)
    return tower.project(tower.final_norm(x[:, -1]))
