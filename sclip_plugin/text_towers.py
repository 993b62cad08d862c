"""Where each framework keeps its text tower: token ids in, joint-space embeddings out.

CLIP's causal text towers (transformers, open_clip, OpenAI) run here block by block through the `BlockInput` that the
methods use, one token position at a time for all prompts at once: what prompts share in front is computed once.
Other text towers (bidirectional ones, SigLIP's) go through their model's own ``get_text_features``.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import UnsupportedModelError
from .towers.open_clip import OpenCLIPBlockInput
from .towers.transformers import TransformersBlockInput

PROMPTS_AT_ONCE = 512


class TextTower(ABC):
    """A text tower with its tokenizer.

    Attributes:
        tokenize: prompts to lists of ids with start and end tokens, whole (not cut).
        context_length: the most tokens it reads, start and end included.
    """

    context_length: int

    def __init__(self, tokenize: Callable[[Sequence[str]], list[list[int]]], parameters: list[Tensor]) -> None:
        self.tokenize = tokenize
        self._parameters = parameters

    @property
    def device(self) -> torch.device:
        return self._parameters[0].device

    @abstractmethod
    def encode(self, tokens: list[list[int]]) -> Tensor:
        """Token ids, each with start and end tokens and nothing after, to (len(tokens), D) embeddings."""

    def fingerprint(self) -> str:
        """A hash that changes with any weight: sums of the bits of every row and every column of every parameter."""
        digest = hashlib.sha256(b"sclip_plugin text bank 1")
        for parameter in self._parameters:
            flat = parameter.detach().reshape(len(parameter), -1) if parameter.dim() else parameter.detach().view(1, 1)
            bits = flat.contiguous().view(
                {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.int8}[flat.itemsize]
            )
            digest.update(f"{tuple(parameter.shape)} {parameter.dtype}".encode())
            for dim in (0, 1):
                digest.update(bits.sum(dim=dim, dtype=torch.int64).cpu().numpy().tobytes())
        return digest.hexdigest()


class CausalTextTower(TextTower):
    """A causal transformer whose embedding is read at the end token."""

    def __init__(
        self, tokenize, parameters, *, token_embedding, positions: Tensor, blocks, block_input, final_norm, project
    ) -> None:
        super().__init__(tokenize, parameters)
        self.token_embedding = token_embedding
        self.positions = positions
        self.blocks = blocks
        self.block_input = block_input
        self.final_norm = final_norm
        self.project = project
        self.context_length = len(positions)

    def encode(self, tokens: list[list[int]]) -> Tensor:
        order = sorted(range(len(tokens)), key=lambda i: tokens[i])  # neighbours share prefixes
        chunks = [order[i : i + PROMPTS_AT_ONCE] for i in range(0, len(order), PROMPTS_AT_ONCE)]
        encoded = torch.cat([self._encode_sorted([tokens[i] for i in chunk]) for chunk in chunks])
        return encoded[torch.tensor(order, device=encoded.device).argsort()]

    def _encode_sorted(self, tokens: list[list[int]]) -> Tensor:
        """Walk the trie of prefixes level by level; the nodes of a level go through the blocks as one batch.

        A node's keys and values attend to those of its ancestors, which `keys` and `values` hold per block as
        (nodes of the level, H, depth, d).
        """
        keys: list[Tensor | None] = [None] * len(self.blocks)
        values: list[Tensor | None] = [None] * len(self.blocks)
        node_of_prompt = [0] * len(tokens)
        ends: list[tuple[list[int], Tensor]] = []
        for depth in range(max(map(len, tokens))):
            alive = [i for i, ids in enumerate(tokens) if len(ids) > depth]
            nodes: dict[tuple[int, int], int] = {}
            for i in alive:
                node_of_prompt[i] = nodes.setdefault((node_of_prompt[i], tokens[i][depth]), len(nodes))
            parents = torch.tensor([parent for parent, _ in nodes], device=self.device)
            ids = torch.tensor([token for _, token in nodes], device=self.device)
            x = (self.token_embedding(ids) + self.positions[depth].to(self.token_embedding.weight.dtype))[:, None]
            for index, block in enumerate(self.blocks):
                step = self.block_input(block, x)
                previous_keys, previous_values = keys[index], values[index]
                k = step.k if previous_keys is None else torch.cat([previous_keys[parents], step.k], dim=2)
                v = step.v if previous_values is None else torch.cat([previous_values[parents], step.v], dim=2)
                keys[index], values[index] = k, v
                x = x + step.out(F.scaled_dot_product_attention(step.q, k, v, scale=step.scale))
                x = x + step.ffn(x)
            ending = [i for i in alive if len(tokens[i]) == depth + 1]
            if ending:
                rows = torch.tensor([node_of_prompt[i] for i in ending], device=self.device)
                ends.append((ending, self.project(self.final_norm(x[rows, 0]))))
        order = torch.tensor([i for ending, _ in ends for i in ending], device=self.device)
        return torch.cat([encoded for _, encoded in ends])[order.argsort()]


class TransformersTextFeatures(TextTower):
    """Any model of transformers with ``get_text_features``; prompts of one length go through it together."""

    def __init__(self, model, tokenize, pad: tuple[int, int] | None) -> None:
        projection = getattr(model, "text_projection", None)
        super().__init__(
            tokenize, [*model.text_model.parameters(), *(projection.parameters() if projection is not None else ())]
        )
        self.model = model
        self.pad = pad  # (length, id) for towers that were trained on padded prompts and read them whole
        self.context_length = pad[0] if pad else _positions(model.text_model)

    def encode(self, tokens: list[list[int]]) -> Tensor:
        if self.pad:
            length, pad_id = self.pad
            tokens = [ids + [pad_id] * (length - len(ids)) for ids in tokens]
        order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
        encoded = []
        for _, group in groupby(order, key=lambda i: len(tokens[i])):
            rows = [tokens[i] for i in group]
            for start in range(0, len(rows), PROMPTS_AT_ONCE):
                ids = torch.tensor(rows[start : start + PROMPTS_AT_ONCE], device=self.device)
                output = self.model.get_text_features(input_ids=ids)
                encoded.append(output if isinstance(output, Tensor) else output.pooler_output)
        return torch.cat(encoded)[torch.tensor(order, device=self.device).argsort()]


def find_text_tower(model: nn.Module, tokenizer: Any) -> TextTower:
    """The text tower of a model, recognised by structure.

    Args:
        model: a CLIP of transformers or open_clip, OpenAI's, or a module that holds one as ``text``.
        tokenizer: of transformers, of ``open_clip.get_tokenizer``, or a callable like ``clip.tokenize``.

    Raises:
        UnsupportedModelError: the model has no text tower, or one that is not known.
    """
    text: Any = getattr(model, "text_model", None)
    if text is not None and hasattr(model, "get_text_features"):
        embeddings: Any = getattr(text, "embeddings", None)
        text_projection: Any = getattr(model, "text_projection", None)
        reads_end_token = hasattr(text, "eos_token_id") and text_projection is not None
        if reads_end_token and hasattr(embeddings, "token_embedding") and hasattr(text, "final_layer_norm"):
            return CausalTextTower(
                _tokenize_with(tokenizer),
                [*text.parameters(), *text_projection.parameters()],
                token_embedding=embeddings.token_embedding,
                positions=embeddings.position_embedding.weight,
                blocks=text.encoder.layers,
                block_input=TransformersBlockInput,
                final_norm=text.final_layer_norm,
                project=text_projection,
            )
        padded = hasattr(text, "head")  # SigLIP reads the last of 64 positions, padding included
        pad = (len(embeddings.position_embedding.weight), _pad_id(tokenizer)) if padded else None
        return TransformersTextFeatures(model, _tokenize_with(tokenizer), pad)
    candidates = (model, getattr(model, "text", None))
    side: Any = next((m for m in candidates if hasattr(m, "token_embedding") and hasattr(m, "ln_final")), None)
    if side is not None and getattr(side, "cls_emb", None) is None:
        projection = side.text_projection
        return CausalTextTower(
            _tokenize_with(tokenizer),
            [
                *side.token_embedding.parameters(),
                side.positional_embedding,
                *side.transformer.parameters(),
                *side.ln_final.parameters(),
                *([projection] if isinstance(projection, Tensor) else getattr(projection, "parameters", list)()),
            ],
            token_embedding=side.token_embedding,
            positions=side.positional_embedding,
            blocks=side.transformer.resblocks,
            block_input=OpenCLIPBlockInput,
            final_norm=side.ln_final,
            project=_projection(projection),
        )
    raise UnsupportedModelError(
        f"{type(model).__name__} has no text tower that is known here: words cannot be compared with its features. "
        "Pass a whole CLIP (transformers' CLIPModel, a model of open_clip, OpenAI's clip), not its image tower alone."
    )


def _positions(text: Any) -> int:
    """The most tokens of a BERT-like text model; RoBERTa's kind counts them from behind the padding index."""
    tables = (m for name, m in text.named_modules() if name.endswith("position_embeddings"))
    table = next((m for m in tables if isinstance(m, nn.Embedding)), None)
    if table is None:
        return text.config.max_position_embeddings
    return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)


def _projection(projection: Any) -> Callable[[Tensor], Tensor]:
    if projection is None:
        return nn.Identity()
    return projection if isinstance(projection, nn.Module) else partial(_multiply, projection)


def _multiply(matrix: Tensor, x: Tensor) -> Tensor:
    return x @ matrix.to(x.dtype)


def _pad_id(tokenizer: Any) -> int:
    return getattr(tokenizer, "pad_token_id", None) or 0


def _tokenize_with(tokenizer: Any) -> Callable[[Sequence[str]], list[list[int]]]:
    """Prompts to lists of ids with start and end tokens, whole (not cut), whatever kind of tokenizer it is."""
    inner = getattr(tokenizer, "tokenizer", tokenizer)  # open_clip's HFTokenizer holds transformers' own
    # Partials of functions, not lambdas: a segmenter goes to worker processes.
    if hasattr(inner, "convert_tokens_to_ids"):
        return partial(_tokenize_transformers, inner)
    if hasattr(inner, "sot_token_id") and hasattr(inner, "encode"):
        return partial(_tokenize_open_clip, inner)
    if callable(inner):
        return partial(_tokenize_openai, inner)
    raise TypeError(
        f"tokenizer is a {type(tokenizer).__name__}; expected a tokenizer of transformers, of open_clip.get_tokenizer, "
        "or a function like clip.tokenize that takes a list of texts."
    )


def _tokenize_transformers(tokenizer: Any, prompts: Sequence[str]) -> list[list[int]]:
    return [list(ids) for ids in tokenizer(list(prompts), truncation=False, verbose=False)["input_ids"]]


def _tokenize_open_clip(tokenizer: Any, prompts: Sequence[str]) -> list[list[int]]:
    return [[tokenizer.sot_token_id, *tokenizer.encode(p), tokenizer.eot_token_id] for p in prompts]


def _tokenize_openai(tokenize: Any, prompts: Sequence[str]) -> list[list[int]]:
    # clip.tokenize pads with zeros behind the end token, which has the highest id.
    return [ids[: int(ids.argmax()) + 1].tolist() for ids in tokenize(list(prompts))]
