"""`Method`: a replacement of the last block's forward, written in the last block's own q, k and v.

A method knows no framework. It receives a `BlockInput` (the last block with the tokens that enter it) and a `Context`
(the patch grid, tapped earlier blocks, the projection). It returns tokens, or a `Dense`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor

from ..errors import UnsupportedModelError
from ..fields import field_of
from ..grammar import Part
from ..towers.running import before_last_block

if TYPE_CHECKING:
    from ..guides import Guide
    from ..towers.base import BlockInput, Tower
    from ..towers.running import Context, Window

PositionResize = Literal["scale_factor", "size", "size_antialias", "bilinear"]


@dataclass(frozen=True)
class Dense:
    """Result of a method that is more than one token per patch of the tower.

    Attributes:
        tokens: of a `Method` (B, P + N, C), P prefix tokens first; of a `PictureMethod` (B, N, D) in the joint space.
        grid: (a, b), the grid of the N patches; None: the tower's own.
        spread: if the rows are not patches (e.g. one per region): a linear function from row scores (N, K) to a score
            map (a, b, K).
    """

    tokens: Tensor
    grid: tuple[int, int] | None = None
    spread: Callable[[Tensor], Tensor] | None = None


@dataclass(frozen=True, kw_only=True)
class Method(Part):
    """Replacement of a vision transformer's last block: a block in, tokens out. `apply` puts it into a model in place.

    Subclass it as a frozen dataclass whose fields are the options.

    Fields:
        position_resize: how positional embeddings are resized to another patch grid. ``"scale_factor"``: bicubic by the
            factors (h + 0.1) / g, as in SCLIP's code and its successors. ``"size"``: bicubic to the target size.
            ``"size_antialias"``: the same with antialiasing, as in GEM. ``"bilinear"``: bilinear to the target size, as
            in CLIP Surgery.

    Class attributes:
        name, summary, source: see `Part`.
        sees_regions: whether features depend on the regions of the settings' masks, ``window.picture.regions``.
    """

    bound: ClassVar[frozenset[str]] = frozenset({"text"})
    sees_regions: ClassVar[bool] = False
    position_resize: PositionResize = "scale_factor"

    @classmethod
    def needs_outside_model(cls) -> bool:
        """Whether an option names an outside model; a comparison of all methods skips those."""
        return any(field.metadata.get("holds") == "model" for field in cls.options())

    @property
    def needs_text(self) -> bool:
        """Whether the features depend on the words, with these options; `bind` then receives the words."""
        return False

    def bind(self, *, text: Tensor, logit_scale: float, image_mean: Tensor, image_std: Tensor) -> Method:
        """The method for one question. The segmenter calls this before the method runs.

        Args:
            text: (K, D) float32, unit embeddings of all names.
            logit_scale: the settings' factor on cosines before the softmax.
            image_mean, image_std: (3,), normalisation of ``context.pixel_values``.

        Returns:
            This method, or a copy that holds the arguments it needs, such as ``text`` in a field of that name.
        """
        return dataclasses.replace(self, text=text) if self.needs_text else self  # type: ignore[call-arg]

    def taps(self, depth: int) -> tuple[int, ...]:
        """Indices (from 0, of ``depth`` blocks) of earlier blocks that the method needs in ``context.taps``."""
        return ()

    def window(self, asked: int) -> int:
        """Side in pixels of the method's windows, given the settings' side; 0: the method takes whole pictures."""
        return asked

    def tokens_at_once(self, tower: Tower, size: tuple[int, int]) -> int:
        """Peak number of tokens for one window of (height, width) pixels; used to choose the batch size."""
        height, width = (max(1, side // patch) for side, patch in zip(size, tower.patch_size, strict=True))
        return height * width + tower.prefix_tokens

    def padded(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) to which windows of ``size`` are padded with the mean colour, half of it in front."""
        return size

    @property
    def takes_whole_pictures(self) -> bool:
        """Whether the method cuts the windows itself; see `PictureMethod`."""
        return False

    @property
    def is_the_block(self) -> bool:
        """Whether the method, with these options, equals the trained last block."""
        return False

    def guides(self, tower: Tower) -> tuple[Guide, ...]:
        """The method's outside models, loaded beside a tower; see `sclip_plugin.guides`."""
        return ()

    def check_tower(self, tower: Tower) -> None:
        """Refuse a tower that lacks a part the method needs.

        Raises:
            UnsupportedModelError: the tower has no attention, or no earlier blocks for a method that taps them.
        """
        name, trunk = self.called(), type(tower.trunk).__name__
        if not tower.attends and not self.is_the_block:
            raise UnsupportedModelError(
                f"{trunk} is a convolutional tower: no last block with queries, keys and values stands before its head "
                f"for {name!r} to replace. method='vanilla', with its own options, takes the map through the head."
            )
        if len(tower.blocks) == 1 and self.taps(1):
            raise UnsupportedModelError(
                f"{name!r} looks at blocks before the last one, and {trunk} has one alone, its attention pool. "
                "Methods that do with the last block work, for instance 'maskclip', 'clearclip' or 'naclip'."
            )

    def reach_last_block(
        self,
        tower: Tower,
        pixel_values: Tensor,
        hidden_states: list[Tensor] | None = None,
        windows: Sequence[Window] = (),
        taps: Sequence[int] = (),
    ) -> tuple[BlockInput, Context]:
        """Run all blocks but the last, by `sclip_plugin.towers.running.before_last_block`.

        ``taps`` are indices of further blocks to tap, beside the method's own.
        """
        wanted = (*self.taps(len(tower.blocks)), *taps)
        return before_last_block(tower, pixel_values, wanted, self.position_resize, hidden_states, windows)

    def __call__(self, block: BlockInput, context: Context) -> Tensor | Dense:
        """Tokens that leave the last block, (B, P + N, C): P prefix tokens (CLS), then N patches.

        A `Dense` if the patches have another grid.
        """
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class PictureMethod(Method):
    """A method that gives features of windows, or of a whole picture, in the joint space. `apply` refuses it.

    Subclass it for more than one block: branches that are projected one by one, or windows that the method joins. To
    take whole pictures, return 0 from `window`. The method is then called with one picture at a time and cuts windows
    by ``context.windows[0].picture``. Its map is resized straight to the size of the label map.
    """

    @property
    def takes_whole_pictures(self) -> bool:
        return not self.window(1)

    def __call__(self, block: BlockInput, context: Context) -> Dense:
        """Features (B, N, D) in the joint space, without prefix rows."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class AttentionMethod(Method):
    """A method that changes only what the last block attends to, and whether it keeps its residual and FFN.

    A subclass gives `similarities`: pairs (a, b), each (B, H, T, d). The attention applied to v is the sum over pairs
    of softmax(s · temperature · a bᵀ + bias), computed by torch's fused attention: no T x T map is formed.

    Fields:
        residual: add the tokens that entered the block (t + o).
        ffn: add the block's feed-forward network after that.
        temperature: multiplies the scale s = d^-1/2 of the scores.

    Example:
        >>> import sclip_plugin as sp
        >>> from dataclasses import dataclass
        >>> @sp.register_method("my-kk")
        ... @dataclass(frozen=True, kw_only=True)
        ... class MyKeyKey(sp.AttentionMethod):
        ...     residual: bool = False
        ...     ffn: bool = False
        ...     def similarities(self, block):
        ...         return [(block.k, block.k)]
        >>> "my-kk" in sp.list_methods()
        True
    """

    residual: bool = True
    ffn: bool = True
    temperature: float = field_of(1.0, "multiplies the scale of the scores", above=0)

    def similarities(self, block: BlockInput) -> list[tuple[Tensor, Tensor]]:
        raise NotImplementedError

    def bias(self, block: BlockInput, context: Context) -> Tensor | None:
        """Added to the scaled scores before the softmax, broadcastable to (B, H, T, T); None: nothing."""
        return None

    def attend(self, block: BlockInput, context: Context) -> Tensor:
        """The attention's output per head, (B, H, T, d), before the output projection."""
        bias = self.bias(block, context)
        scale = block.scale * self.temperature
        outputs = [
            F.scaled_dot_product_attention(a, b, block.v, attn_mask=bias, scale=scale)
            for a, b in self.similarities(block)
        ]
        return sum(outputs[1:], outputs[0])

    def __call__(self, block: BlockInput, context: Context) -> Tensor:
        return self.combine(block, block.out(self.attend(block, context)))

    def combine(self, block: BlockInput, attended: Tensor) -> Tensor:
        """t + o, then + ffn(ln2(·)), each where the option is on; both off: o alone. (B, T, C) in and out."""
        tokens = block.tokens + attended if self.residual else attended
        return tokens + block.ffn(tokens) if self.ffn else tokens
