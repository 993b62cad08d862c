"""Where each framework keeps its text tower: prompts in, joint-space embeddings out.

Two ways lead there. A model's own ``encode_text`` or ``get_text_features``, fed by its own tokenizer, is right for
every model. CLIP's causal text towers (transformers, open_clip, OpenAI) can also be run here block by block through the
`BlockInput` that the methods use, along the tree of the prompts' prefixes: what prompts share in front is computed
once, and what follows the end token not at all. That fast way is taken only where it is proven right, by structure and
then by comparison with the model's own way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from ..device import budget
from ..errors import UnsupportedModelError
from ..towers.aimv2 import Aimv2BlockInput
from ..towers.layers import base_of, table_of
from ..towers.open_clip import OpenCLIPBlockInput
from ..towers.registry import unwrapped
from ..towers.transformers import TransformersBlockInput
from .base import PROBES, Read, TextSide, TextTower, cut_to
from .causal import CausalTextTower
from .tokenizers import ids_of, pad_id, padded_ids_of

ENOUGH_TOKENS = 4
"""Texts this much longer than what a tower reads are still tokenised whole, to tell that they are cut."""


SAME_COSINE = {torch.float32: 1 - 1e-5, torch.float64: 1 - 1e-5, torch.float16: 1 - 1e-3, torch.bfloat16: 1 - 1e-2}


class OwnTextTower(TextTower):
    """The model's own way: its tokenizer as its users call it, and its own forward.

    Args:
        encode_text: (n, L) ids to (n, D).
        tokenize: prompts and a length to ids (n, L), as the model reads them.
        context_length: the most tokens that the model reads.
        last_is_special: every text ends with a token behind the padding (a class token).
    """

    def __init__(
        self,
        side: TextSide,
        encode_text: Callable[[Tensor], Tensor],
        tokenize: Callable[[Sequence[str], int], Tensor],
        context_length: int,
        last_is_special: bool = False,
    ) -> None:
        super().__init__(side)
        self.encode_text = encode_text
        self.tokenize = tokenize
        self.context_length = context_length
        self.last_is_special = last_is_special

    def read(self, prompts: Sequence[str]) -> Read:
        length = self.context_length
        rows = self.tokenize(prompts, length).tolist()
        longer = self.tokenize(["", *prompts], length + ENOUGH_TOKENS).tolist()
        end = -2 if self.last_is_special else -1
        padding = longer[0][end]
        # With some room more, a text that is not too long has padding there.
        return Read([tuple(row) for row in rows], [row[length + end] != padding for row in longer[1:]])

    def encode(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        step = max(1, budget(self.device).tokens // max(1, len(tokens[0])))
        parts = [torch.tensor(tokens[i : i + step], device=self.device) for i in range(0, len(tokens), step)]
        return torch.cat([self.encode_text(ids) for ids in parts])


class TransformersTextTower(TextTower):
    """Any model of transformers with ``get_text_features``; prompts of one length go through it together, unpadded.

    Args:
        padded: (length, id) for towers that were trained on padded prompts and read them whole (SigLIP); else None.
    """

    def __init__(
        self,
        side: TextSide,
        model: Any,
        tokenizer: Any,
        context_length: int,
        padded: tuple[int, int] | None,
    ) -> None:
        super().__init__(side)
        self.model = model
        self.ids_of = ids_of(tokenizer)
        self.padded = padded
        self.context_length = context_length

    def read(self, prompts: Sequence[str]) -> Read:
        return cut_to(self.ids_of(prompts), self.context_length)

    def encode(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        rows = [list(ids) for ids in tokens]
        if self.padded:
            length, pad_id = self.padded
            rows = [ids + [pad_id] * (length - len(ids)) for ids in rows]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        encoded = []
        for length, group in groupby(order, key=lambda i: len(rows[i])):
            members = list(group)
            step = max(1, budget(self.device).tokens // length)
            for start in range(0, len(members), step):
                ids = torch.tensor([rows[i] for i in members[start : start + step]], device=self.device)
                output = self.model.get_text_features(input_ids=ids)
                encoded.append(output if isinstance(output, Tensor) else output.pooler_output)
        return torch.cat(encoded)[torch.tensor(order, device=self.device).argsort()]


class ProvenTextTower(TextTower):
    """The fast way where it gives what the model's own way gives, else the model's own.

    The two are compared once, on `PROBES`, when the first prompts are embedded.
    """

    def __init__(self, fast: TextTower, own: TextTower) -> None:
        super().__init__(own.side)
        self.fast, self.own = fast, own
        self.context_length = own.context_length
        self._chosen: TextTower | None = None
        self._answers: Tensor | None = None

    @property
    def chosen(self) -> TextTower:
        """The way that is taken."""
        if self._chosen is None:
            self._chosen = self.fast if self._agree() else self.own
        return self._chosen

    def read(self, prompts: Sequence[str]) -> Read:
        return self.chosen.read(prompts)

    def encode(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        return self.chosen.encode(tokens)

    def ids(self, prompts: Sequence[str]) -> list[tuple[int, ...]]:
        return self.fast.ids(prompts)

    def answers(self) -> Tensor:
        """Those of the model's own way, which are right whichever is taken."""
        if self._answers is None:
            self._answers = self.own.answers()
        return self._answers

    def moment(self) -> str:
        return f"{super().moment()} {self.own.ids(PROBES)}"

    def _agree(self) -> bool:
        both = [self.fast.answers(), self.answers()]
        wanted = SAME_COSINE.get(self.dtype_of_weights, 1 - 1e-2)
        return both[0].shape == both[1].shape and bool(((both[0] * both[1]).sum(dim=-1) > wanted).all())


def find_text_tower(model: nn.Module, tokenizer: Any) -> TextTower:
    """The text tower of a model, recognised by structure.

    Args:
        model: a CLIP of transformers or open_clip, OpenAI's, or a module that holds one as ``text``.
        tokenizer: of transformers, of ``open_clip.get_tokenizer``, or a callable like ``clip.tokenize``.

    Raises:
        UnsupportedModelError: the model has no text tower, or one that is not known.
        ArgumentTypeError: a tokenizer of another kind.
    """
    whole: Any = unwrapped(model)
    tower: TextTower | None = None
    if callable(getattr(whole, "get_text_features", None)):
        tower = _find_transformers(whole, tokenizer)
    for holder in (whole, getattr(whole, "text", None)):
        if tower is None and callable(getattr(holder, "encode_text", None)):
            tower = _find_open_clip(holder, tokenizer)
    if tower is not None:
        tower.anew = partial(find_text_tower, model, tokenizer)
        return tower
    raise UnsupportedModelError(
        f"{type(model).__name__} has no text tower that is known here: words cannot be compared with its features. "
        "Pass a whole CLIP (transformers' CLIPModel, a model of open_clip, OpenAI's clip), not its image tower alone."
    )


def _find_transformers(model: Any, tokenizer: Any) -> TextTower:
    vision = ("vision_model.", "visual_projection.", "vision_embed_tokens.")
    side = TextSide(model, vision)
    text = getattr(model, "text_model", None)
    embeddings = getattr(text, "embeddings", None)
    padded = None
    if hasattr(text, "head"):  # SigLIP reads the last of 64 positions, padding included
        padded = (base_of(embeddings.position_embedding).num_embeddings, pad_id(tokenizer))  # type: ignore[union-attr]
    limit = padded[0] if padded else _positions(text if text is not None else model)
    own = TransformersTextTower(side, model, tokenizer, limit, padded)
    projection = getattr(model, "text_projection", None)
    is_causal = hasattr(text, "eos_token_id") and hasattr(embeddings, "token_embedding")
    if is_causal and projection is not None and hasattr(text, "rms_norm"):
        # AIMv2: transformers leaves its causal mask out where no prompt of a batch is padded, so its own way, unpadded,
        # is none to compare with.
        return CausalTextTower(
            side,
            own.ids_of,
            token_embedding=embeddings.token_embedding,  # type: ignore[union-attr]
            positions=table_of(embeddings.position_embedding),  # type: ignore[union-attr]
            blocks=text.encoder.layers,  # type: ignore[union-attr]
            block_input=Aimv2BlockInput,
            final_norm=text.rms_norm,  # type: ignore[union-attr]
            project=projection,
        )
    if not (is_causal and projection is not None and hasattr(text, "final_layer_norm")):
        return own
    layers = getattr(getattr(text, "encoder", None), "layers", None)
    if not layers or not hasattr(layers[0], "layer_norm1"):
        return own
    fast = CausalTextTower(
        side,
        own.ids_of,
        token_embedding=embeddings.token_embedding,  # type: ignore[union-attr]
        positions=table_of(embeddings.position_embedding),  # type: ignore[union-attr]
        blocks=layers,
        block_input=TransformersBlockInput,
        final_norm=text.final_layer_norm,  # type: ignore[union-attr]
        project=projection,
    )
    return ProvenTextTower(fast, own)


def _find_open_clip(model: Any, tokenizer: Any) -> TextTower:
    """open_clip's models, OpenAI's, and those built alike (Long-CLIP): all that have ``encode_text``."""
    words = TextSide(model, ("visual.",))
    side = next((m for m in (model, getattr(model, "text", None)) if hasattr(m, "token_embedding")), None)
    limit = getattr(tokenizer, "context_length", None) or getattr(model, "context_length", None) or 77
    last_is_special = getattr(tokenizer, "tokenizer_mode", "") == "clips"
    own = OwnTextTower(words, partial(_encode_text, model), padded_ids_of(tokenizer), limit, last_is_special)
    if side is None or not _is_causal(model, side):
        return own
    projection = side.text_projection
    fast = CausalTextTower(
        words,
        ids_of(tokenizer),
        token_embedding=side.token_embedding,
        positions=side.positional_embedding,
        blocks=side.transformer.resblocks,
        block_input=OpenCLIPBlockInput,
        final_norm=side.ln_final,
        project=_projection(projection),
    )
    fast.context_length = min(fast.context_length, limit)
    return ProvenTextTower(fast, own)


def _is_causal(model: Any, side: Any) -> bool:
    """By structure: a causal mask, one table of positions, no class token, read at the end token."""
    has = all(hasattr(side, name) for name in ("positional_embedding", "transformer", "ln_final", "text_projection"))
    if not has or not hasattr(side.transformer, "resblocks"):
        return False
    pooled = getattr(model, "text_pool_type", getattr(side, "pool_type", "argmax"))  # OpenAI's has no word for it
    masked = getattr(side, "attn_mask", getattr(side.transformer.resblocks[0], "attn_mask", None)) is not None
    second_table = any("positional_embedding" in name and name != "positional_embedding" for name in _own_names(side))
    is_block = hasattr(getattr(side.transformer.resblocks[0], "attn", None), "in_proj_weight")
    no_class_token = getattr(side, "cls_emb", None) is None
    return masked and is_block and no_class_token and not second_table and pooled in ("argmax", "eos")


def _own_names(module: nn.Module) -> list[str]:
    return [name for name, _ in module.named_parameters(recurse=False)]


def _encode_text(model: Any, ids: Tensor) -> Tensor:
    output = model.encode_text(ids)
    return output[0] if isinstance(output, tuple) else output  # CoCa gives its tokens, too


def _positions(text: Any) -> int:
    """The most tokens of a BERT-like text model; RoBERTa's kind counts them from behind the padding index."""
    tables = (m for name, m in text.named_modules() if name.endswith(("position_embeddings", "position_embedding")))
    table = next((m for m in map(base_of, tables) if isinstance(m, nn.Embedding)), None)
    if table is None:
        return text.config.max_position_embeddings
    return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)


def _projection(projection: Any) -> Callable[[Tensor], Tensor]:
    if projection is None:
        return nn.Identity()
    return projection if isinstance(projection, nn.Module) else partial(_multiply, projection)


def _multiply(matrix: Tensor, x: Tensor) -> Tensor:
    return x @ matrix.to(x.dtype)
