"""Where each framework keeps its text tower: token ids in, joint-space embeddings out.

CLIP's causal text towers (transformers, open_clip, OpenAI) run here block by block through the `BlockInput` that the
methods use, along the tree of the prompts' prefixes: what prompts share in front is computed once.
Other text towers (bidirectional ones, SigLIP's) go through their model's own ``get_text_features``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..device import budget
from ..errors import UnsupportedModelError
from ..fingerprint import fingerprint
from ..towers.open_clip import OpenCLIPBlockInput
from ..towers.transformers import TransformersBlockInput
from .prefixes import Edge, edges_after

PROMPTS_AT_ONCE = 4096

KeysValues = tuple[Tensor, Tensor]
"""Of one block: (n, H, T, d) each."""


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
        """A hash that changes with any one weight of the text tower."""
        return fingerprint(self._parameters)


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
        order = sorted(range(len(tokens)), key=tokens.__getitem__)  # neighbours share prefixes
        chunks = [order[i : i + PROMPTS_AT_ONCE] for i in range(0, len(order), PROMPTS_AT_ONCE)]
        encoded = torch.cat([self._encode_sorted([tokens[i] for i in chunk]) for chunk in chunks])
        return encoded[torch.tensor(order, device=encoded.device).argsort()]

    def _encode_sorted(self, prompts: list[list[int]]) -> Tensor:
        """Walk the tree of the prompts' prefixes from its root; edges of one length at one depth go as one batch."""
        waiting: dict[int, list[tuple[int, Edge]]] = defaultdict(list)  # by depth; each with its node's number there
        waiting[0] = [(0, edge) for edge in edges_after(prompts, range(len(prompts)), 0)]
        nodes: dict[int, list[list[KeysValues]]] = defaultdict(list)  # by depth: for each batch those of all blocks
        last: dict[int, Tensor] = {}  # by prompt
        for depth in range(max(map(len, prompts))):
            past = [_joined(batches) for batches in zip(*nodes.pop(depth, []), strict=True)]
            for parents, edges in self._batches(waiting.pop(depth, [])):
                ids = torch.tensor([edge.tokens for edge in edges], device=self.device)
                rows = torch.tensor(parents, device=self.device)
                x, reached = self._run(ids, depth, past, rows, edges[0].ends)
                if edges[0].ends:
                    last.update((i, row) for edge, row in zip(edges, x, strict=True) for i in edge.prompts)
                    continue
                end = depth + ids.shape[1]
                first = sum(len(batch[0][0]) for batch in nodes[end])
                nodes[end].append(reached)
                for number, edge in enumerate(edges, first):
                    waiting[end] += [(number, after) for after in edges_after(prompts, edge.prompts, end)]
        return self.project(self.final_norm(torch.stack([last[i] for i in range(len(prompts))])))

    def _batches(self, waiting: list[tuple[int, Edge]]) -> Iterator[tuple[list[int], list[Edge]]]:
        """Edges of one kind and length, with their nodes' numbers, as many as go through the tower together."""

        def kind(entry: tuple[int, Edge]) -> tuple[int, bool]:
            return len(entry[1].tokens), entry[1].ends

        for (length, _), group in groupby(sorted(waiting, key=kind), key=kind):
            entries = list(group)
            step = max(1, budget(self.device).tokens // length)
            for start in range(0, len(entries), step):
                part = entries[start : start + step]
                yield [number for number, _ in part], [edge for _, edge in part]

    def _run(
        self, ids: Tensor, depth: int, past: list[KeysValues], parents: Tensor, ends: bool
    ) -> tuple[Tensor, list[KeysValues]]:
        """Runs of tokens (n, L) through the blocks, each after the ``depth`` tokens of the node that it starts at.

        Args:
            past: for each block the keys and values of nodes, (m, H, depth, d); none at the root.
            parents: (n,), the node of each run.
            ends: the runs end prompts, so that of the last block only the last token is needed. Otherwise nothing of it
                is needed but its keys and values.

        Returns:
            With ``ends`` (n, C), the last token of each run after the blocks. Without, in second place, for each block
            the keys and values (n, H, depth + L, d) of the nodes that the runs reach.
        """
        length = ids.shape[1]
        x = self.token_embedding(ids) + self.positions[depth : depth + length].to(self.token_embedding.weight.dtype)
        causal = torch.ones(length, depth + length, dtype=torch.bool, device=ids.device).tril(depth)
        keys_values: list[KeysValues] = []
        for index, block in enumerate(self.blocks):
            step = self.block_input(block, x)
            k, v = step.k, step.v
            if past:
                k, v = (torch.cat([old[parents], new], dim=2) for old, new in zip(past[index], (k, v), strict=True))
            if not ends:
                keys_values.append((k, v))
            if index == len(self.blocks) - 1:
                if not ends:
                    break
                step, causal = step.at(x[:, -1:]), causal[-1:]
            x = step.tokens + step.out(F.scaled_dot_product_attention(step.q, k, v, causal, scale=step.scale))
            x = x + step.ffn(x)
        return x[:, -1], keys_values


def _joined(batches: Sequence[KeysValues]) -> KeysValues:
    keys, values = zip(*batches, strict=True)
    return torch.cat(keys), torch.cat(values)


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
        for length, group in groupby(order, key=lambda i: len(tokens[i])):
            rows = [tokens[i] for i in group]
            step = max(1, budget(self.device).tokens // length)
            for start in range(0, len(rows), step):
                ids = torch.tensor(rows[start : start + step], device=self.device)
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
