"""CLIP's causal text towers along the tree of their prompts' prefixes.

What prompts share in front goes through the blocks once, and what follows the end token not at all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..device import budget
from .base import Read, TextSide, TextTower, cut_to
from .prefixes import Edge, edges_after

PROMPTS_AT_ONCE = 4096


KeysValues = tuple[Tensor, Tensor]
"""Of one block: (n, H, T, d) each."""


class CausalTextTower(TextTower):
    """A causal transformer whose embedding is read at the end token; it need not see what follows that."""

    def __init__(
        self,
        side: TextSide,
        ids_of: Callable[[Sequence[str]], list[list[int]]],
        *,
        token_embedding: Any,
        positions: Tensor,
        blocks: Any,
        block_input: Callable[..., Any],
        final_norm: Any,
        project: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__(side)
        self.ids_of = ids_of
        self.token_embedding = token_embedding
        self.positions = positions
        self.blocks = blocks
        self.block_input = block_input
        self.final_norm = final_norm
        self.project = project
        self.context_length = len(positions)

    @property
    def dtype(self) -> torch.dtype:
        """What the blocks compute in; the embeddings of OpenAI's half-precision models stay in float32."""
        found = (p.dtype for p in self.blocks[0].parameters() if p.dim() == 2)
        return next(found, torch.float32)  # all of them quantised to int8, which takes float32

    def read(self, prompts: Sequence[str]) -> Read:
        return cut_to(self.ids_of(prompts), self.context_length)

    def encode(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        rows = [list(ids) for ids in tokens]
        order = sorted(range(len(rows)), key=rows.__getitem__)  # neighbours share prefixes
        chunks = [order[i : i + PROMPTS_AT_ONCE] for i in range(0, len(order), PROMPTS_AT_ONCE)]
        encoded = torch.cat([self._encode_sorted([rows[i] for i in chunk]) for chunk in chunks])
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
        x = self.token_embedding(ids).to(self.dtype) + self.positions[depth : depth + length].to(self.dtype)
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
