"""What a tower is: where a framework keeps an image tower's parts.

A tower knows no method. It embeds pixels, lists and runs the blocks, shows a block as q, k, v, out and ffn, and
projects tokens into the joint space. It holds no state beyond references to the model's own modules, so it is made
anew in every forward; copies, replicas and moved models therefore need no care.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..defaults import CLIP_MEAN, CLIP_STD
from ..errors import SettingError, ShapeError, UnsupportedModelError
from .layers import is_plain, part_of


class TrunkPatch(Protocol):
    """What a patched trunk knows beside its own modules: its tower, and the tokens that its method computes."""

    def tower(self, trunk: Any) -> Tower: ...

    def dense_tokens(
        self, trunk: Any, pixel_values: Tensor, hidden_states: list[Tensor] | None = None
    ) -> tuple[Tensor, Tensor]: ...


class BlockInput(ABC):
    """A transformer block together with the tokens that enter it; q, k and v are computed when first asked for.

    Attributes:
        block: the framework's module.
        tokens: (B, T, C), what enters the block.
        num_heads, scale: of its attention; scale is s = d^-1/2.
    """

    def __init__(self, block: nn.Module, tokens: Tensor) -> None:
        self.block: Any = block
        self.tokens = tokens
        self._memo: dict[str, Tensor] = {}

    def at(self, tokens: Tensor) -> BlockInput:
        """The same block with other tokens, (B, T', C)."""
        return type(self)(self.block, tokens)

    @property
    def x(self) -> Tensor:
        """ln1 of the tokens, (B, T, C)."""
        if "x" not in self._memo:
            self._memo["x"] = self._norm1(self.tokens)
        return self._memo["x"]

    def heads(self, name: str) -> Tensor:
        """One of ``"q"``, ``"k"``, ``"v"`` or ``"x"`` (no projection at all), cut into heads: (B, H, T, d)."""
        key = "heads." + name
        if key not in self._memo:
            projected = self.x if name == "x" else self._linear(name, self.x)
            self._memo[key] = self._after_split(name, self._split(projected))
        return self._memo[key]

    def _fused(self, layer: Any, name: str, x: Tensor) -> Tensor:
        """The part of a fused qkv projection; a layer that has to be called whole is called once."""
        part = "qkv".index(name)
        if x is not self.x or is_plain(layer, nn.Linear):
            return part_of(layer, x, part, 3)
        if "fused" not in self._memo:
            self._memo["fused"] = layer(x)
        return self._memo["fused"].chunk(3, dim=-1)[part]

    def _split(self, projected: Tensor) -> Tensor:
        """(B, T, C) cut into heads, (B, H, T, d)."""
        batch, count, width = projected.shape
        return projected.view(batch, count, self.num_heads, width // self.num_heads).transpose(1, 2)

    @property
    def q(self) -> Tensor:
        return self.heads("q")

    @property
    def k(self) -> Tensor:
        return self.heads("k")

    @property
    def v(self) -> Tensor:
        return self.heads("v")

    @property
    def own_values(self) -> Tensor:
        """v of what each token holds itself: without positions, where they are added right before this block."""
        return self.v

    def attention_map(self) -> Tensor:
        """The block's ordinary attention, softmax(s q kᵀ): (B, H, T, T)."""
        return (self.scale * self.q @ self.k.transpose(-1, -2)).softmax(dim=-1)

    def out(self, attended: Tensor) -> Tensor:
        """The output projection of per-head values: (B, H, T, d) to (B, T, C)."""
        return self._out(attended.transpose(1, 2).flatten(2))

    def after_attention(self) -> Tensor:
        """The tokens between the block's attention and its FFN, as it was trained: (B, T, C)."""
        return self.tokens + self.out(F.scaled_dot_product_attention(self.q, self.k, self.v, scale=self.scale))

    def ordinary_rows(self, count: int) -> Tensor:
        """The first ``count`` tokens after the block as it was trained, (B, count, C): the rest is not computed."""
        attended = F.scaled_dot_product_attention(self.q[:, :, :count], self.k, self.v, scale=self.scale)
        tokens = self.tokens[:, :count] + self.out(attended)
        return tokens + self.ffn(tokens)

    def _after_split(self, name: str, heads: Tensor) -> Tensor:
        """For towers that normalise or rotate q and k per head."""
        return heads

    @property
    @abstractmethod
    def num_heads(self) -> int: ...

    @property
    @abstractmethod
    def scale(self) -> float: ...

    @abstractmethod
    def _norm1(self, tokens: Tensor) -> Tensor: ...

    @abstractmethod
    def _linear(self, name: str, x: Tensor) -> Tensor:
        """The projection named "q", "k" or "v" of x, (B, T, C) in and out."""

    @abstractmethod
    def _out(self, merged: Tensor) -> Tensor: ...

    def norm2(self, tokens: Tensor) -> Tensor:
        """ln2, what the FFN reads, (B, T, C) in and out; the tokens themselves where no norm stands before the FFN."""
        return tokens

    @abstractmethod
    def ffn(self, tokens: Tensor) -> Tensor:
        """ffn(ln2(tokens)), without the residual: (B, T, C) in and out."""


class PatchedTrunk:
    """Base of the mixins that override the forward of a trunk: what `Tower.patched` names.

    They ask ``self._sclip_patch`` for the tower, ``tower(self)``, and for the tokens, ``dense_tokens(self, pixels)``.
    """

    if TYPE_CHECKING:  # transformers evaluates the annotations of its models' subclasses
        _sclip_patch: TrunkPatch


class Tower(ABC):
    """An image tower of one framework. Register a subclass with `register_tower`.

    Args:
        trunk: the module whose forward `apply` replaces.
        projection: a module above the trunk that takes the image embedding into the joint space, if there is one.

    Attributes:
        trunk, projection: as given.
        blocks: the transformer blocks in order.
        patch_size: (height, width) of a patch in pixels.
        native_grid: (h, w) of the positional embedding, in patches.
        native_size: (H, W) in pixels that the model was made for, if the patch does not divide it: such pictures are
            taken as the model itself takes them, without the rows and columns that fill no patch.
        mean, std: how its pictures are normalised where nothing else is said, for values 0 to 1.
        prefix_tokens: how many tokens stand before the patches (1 for CLS, 0 for SigLIP).
        pools_patches: whether the image embedding is pooled from the patches too, and not read off the CLS token alone.
        attends: whether the last block has queries, keys and values. A convolutional tower's has not: its tokens are
            those of the last map, and `vanilla` alone means something there.
        calls_blocks: whether `run_block` is the block's own forward, and not put together of its parts.
        takes_alpha: whether pixels may have a fourth channel, an alpha normalised as the model wants it.
        patched: a `PatchedTrunk`, the mixin class that overrides the trunk's forward.
    """

    patched: ClassVar[type[PatchedTrunk]]
    name: ClassVar[str] = ""
    models: ClassVar[str] = ""
    """What it supports, in a few words for error messages."""

    blocks: Sequence[nn.Module]
    patch_size: tuple[int, int]
    native_grid: tuple[int, int]
    native_size: tuple[int, int] | None = None
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD
    prefix_tokens: int = 1
    pools_patches: bool = False
    attends: bool = True
    calls_blocks: bool = True
    takes_alpha: bool = False

    def __init__(self, trunk: Any, projection: nn.Module | None = None) -> None:
        self.trunk = trunk
        self.projection = projection

    @classmethod
    @abstractmethod
    def find(cls, model: nn.Module) -> Tower | None:
        """The tower of a model (a whole CLIP, or its image tower alone), or None where the structure is another's."""

    @abstractmethod
    def embed(self, pixel_values: Tensor, position_resize: str) -> Tensor:
        """(B, 3, H, W) normalised pixels to the (B, P + N, C) tokens that enter the first block."""

    @abstractmethod
    def block_input(self, block: nn.Module, tokens: Tensor) -> BlockInput:
        """A block with the tokens that enter it, as q, k, v, out and ffn."""

    @abstractmethod
    def run_block(self, block: nn.Module, tokens: Tensor) -> Tensor:
        """The block's own forward, (B, T, C) in and out."""

    @abstractmethod
    def project(self, tokens: Tensor) -> Tensor:
        """Post-norm and projection into the joint space, (B, T, C) to (B, T, D). Without a projecting head D = C."""

    def embedding(self, tokens: Tensor) -> Tensor:
        """The image embedding in the joint space, (B, D), as the model pools it from the tokens that leave the last
        block, (B, T, C): the CLS token's, or the mean of the patches where there is none."""
        return self.project(tokens[:, :1])[:, 0] if self.prefix_tokens else self.project(tokens).mean(dim=1)

    def project_unnormed(self, tokens: Tensor) -> Tensor:
        """The projection alone, without the post-norm in front of it: for methods that were published so.

        Raises:
            UnsupportedModelError: the tower has no projection that is apart from its norm.
        """
        raise UnsupportedModelError(
            f"{type(self.trunk).__name__} has no projection apart from its norm; expected a CLIP with a CLS token, of "
            "transformers, open_clip, timm or OpenAI."
        )

    def pool_input(self, tokens: Tensor) -> Tensor | None:
        """What a head that pools by attention attends to: tokens that left the last block, normed; None without one."""
        return None

    def pool_output(self, tokens: Tensor) -> Tensor:
        """What the attention of such a head returns, in the joint space, where it sees nothing but one token, or the
        mean of several: values and output projection. An MLP that the head adds is left out.
        """
        raise UnsupportedModelError(f"{type(self.trunk).__name__} has no head that pools by attention.")

    def at_grid(self, grid: tuple[int, int]) -> Tower:
        """The tower that runs a picture of this many patches: itself, unless its blocks depend on the grid (EVA)."""
        return self

    def grid(self, pixel_values: Tensor) -> tuple[int, int]:
        """Patches (h, w) of a batch of pixels.

        Raises:
            ShapeError: not (B, 3, H, W), or a side that the patch does not divide and that is not the native one.
        """
        channels = (3, 4) if self.takes_alpha else (3,)
        if pixel_values.dim() != 4 or pixel_values.shape[1] not in channels:
            raise ShapeError(
                f"pixel_values has shape {tuple(pixel_values.shape)}; expected (batch, 3, height, width), normalised."
            )
        height, width = (int(s) if isinstance(s, Tensor) else s for s in pixel_values.shape[-2:])  # torch.jit.trace
        patch_height, patch_width = self.patch_size
        whole = height % patch_height == 0 and width % patch_width == 0 and height > 0 and width > 0
        if not whole and (height, width) != self.native_size:
            raise ShapeError(
                f"a picture of {height} x {width} pixels cannot be cut into patches of {patch_height} x {patch_width}: "
                f"make its sides multiples, for instance {max(1, height // patch_height) * patch_height} x "
                f"{max(1, width // patch_width) * patch_width}."
            )
        return height // patch_height, width // patch_width


def pair(value: Any) -> tuple[int, int]:
    """(H, W) of a side or of both, as configurations hold them."""
    height, width = value if isinstance(value, Sequence) else (value, value)
    return int(height), int(width)


def resize_positions(positions: Tensor, native: tuple[int, int], grid: tuple[int, int], how: str) -> Tensor:
    """Positional embeddings for another patch grid.

    Args:
        positions: (P + g_h g_w, C): prefix rows first, which are kept as they are.
        native: (g_h, g_w).
        grid: (h, w), the target.
        how: ``"scale_factor"``, ``"size"``, ``"size_antialias"`` or ``"bilinear"``, see `Method`; or
            ``"bilinear_antialias"``, TIPSv2's own.

    Returns:
        (P + h w, C) in the dtype of ``positions``.
    """
    if how not in ("scale_factor", "size", "size_antialias", "bilinear", "bilinear_antialias"):
        raise SettingError(f"position_resize={how!r}; expected 'scale_factor', 'size', 'size_antialias' or 'bilinear'.")
    prefix = positions.shape[0] - native[0] * native[1]
    if not all(isinstance(side, int) for side in grid):  # a size that torch.export leaves open
        return torch.cat([positions[:prefix], resized_to_symbols(positions[prefix:], native, grid, how)])
    if tuple(grid) == tuple(native):
        return positions
    square = positions[prefix:].float().reshape(1, *native, -1).permute(0, 3, 1, 2)
    if how == "scale_factor":
        # The published code passes factors, which the resampling then uses as they are instead of the ratio of sizes.
        factors = [(grid[0] + 0.1) / native[0], (grid[1] + 0.1) / native[1]]
        square = F.interpolate(square, scale_factor=factors, mode="bicubic", recompute_scale_factor=False)
    elif how.startswith("bilinear"):
        antialias = how == "bilinear_antialias"
        square = F.interpolate(square, size=list(grid), mode="bilinear", align_corners=False, antialias=antialias)
    else:
        square = F.interpolate(square, size=list(grid), mode="bicubic", antialias=how == "size_antialias")
    resized = square.permute(0, 2, 3, 1).flatten(1, 2)[0].to(positions.dtype)
    return torch.cat([positions[:prefix], resized])


def resized_to_symbols(positions: Tensor, native: tuple[int, int], grid: tuple[Any, Any], how: str) -> Tensor:
    """`resize_positions` to sizes that are no numbers yet: the same resampling as products with its weights.

    Nothing here asks for the value of a size, so what torch.export makes of it holds for all sizes.
    """
    height, width = (torch.scalar_tensor(side, device=positions.device) for side in grid)
    unchanged = (height == native[0]) & (width == native[1])
    weights = []
    for side, size, g in zip(grid, (height, width), native, strict=True):
        step = g / (size + 0.1 if how == "scale_factor" else size)
        source = torch.arange(g, device=positions.device)
        target = torch.arange(side, device=positions.device)[:, None]
        centre = (target + 0.5) * step - 0.5
        if how == "size_antialias":
            row = cubic((source - centre) / step.clamp_min(1.0), -0.5)
            row = row / row.sum(dim=1, keepdim=True)
        elif how == "bilinear_antialias":
            row = (1 - ((source - centre) / step.clamp_min(1.0)).abs()).clamp_min(0.0)
            row = row / row.sum(dim=1, keepdim=True)
        elif how == "bilinear":
            row = (1 - (source - centre.clamp(0, g - 1)).abs()).clamp_min(0.0)
        else:
            taps = centre.floor() + torch.arange(-1, 3, device=positions.device)
            row = (
                torch.zeros_like(centre)
                .expand(-1, g)
                .scatter_add(1, taps.clamp(0, g - 1).long(), cubic(taps - centre, -0.75))
            )
        weights.append(torch.where(unchanged, (source == target).float(), row))
    square = positions.float().unflatten(0, native)
    return torch.einsum("hi,wj,ijc->hwc", *weights, square).flatten(0, 1).to(positions.dtype)


def cubic(distance: Tensor, a: float) -> Tensor:
    """Keys' cubic kernel."""
    x = distance.abs()
    near, far = ((a + 2) * x - (a + 3)) * x * x + 1, ((x - 5) * x + 8) * x * a - 4 * a
    return torch.where(x <= 1, near, torch.where(x < 2, far, 0.0))


def take_intermediates(
    hidden_states: list[Tensor],
    indices: int | Sequence[int] | None,
    prefix_tokens: int,
    grid: tuple[int, int],
    output_fmt: str,
) -> tuple[list[Tensor], list[Tensor]]:
    """What ``forward_intermediates`` of timm and open_clip returns, from the tokens between all blocks.

    Args:
        hidden_states: the tokens that enter each block, then those that leave the last: depth + 1 of (B, P + N, C).
        indices: of blocks; None for all, n for the last n.
        prefix_tokens: P.
        grid: (h, w) in patches.
        output_fmt: ``"NCHW"`` for (B, C, h, w), ``"NLC"`` for (B, N, C).

    Returns:
        Patches and prefix tokens (B, P, C) that left each block taken, in the order of the blocks.
    """
    if output_fmt not in ("NCHW", "NLC"):
        raise SettingError(f"output_fmt={output_fmt!r}; expected 'NCHW' or 'NLC'.")
    after = hidden_states[1:]
    if indices is None or isinstance(indices, int):
        taken = after if indices is None else after[-indices:]
    else:
        taken = [after[index] for index in sorted(range(len(after))[i] for i in indices)]
    patches = [tokens[:, prefix_tokens:] for tokens in taken]
    if output_fmt == "NCHW":
        patches = [tokens.transpose(1, 2).unflatten(2, grid).contiguous() for tokens in patches]
    return patches, [tokens[:, :prefix_tokens] for tokens in taken]
