"""What a method is: a replacement of the last block's forward, written in the last block's own q, k and v.

A method knows no framework. It is handed a `BlockInput` (the last block with the tokens that enter it) and a `Context`
(the patch grid, what earlier blocks saw, the projection), and returns the tokens that leave the block.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor

from ..errors import UnsupportedModelError
from ..fields import check_fields, field_of
from ..towers.running import before_last_block

if TYPE_CHECKING:
    from ..towers.base import BlockInput, Tower
    from ..towers.running import Context, Window

PositionResize = Literal["scale_factor", "size", "size_antialias"]


@dataclass(frozen=True, kw_only=True)
class Method:
    """Replacement of a vision transformer's last block. Subclass it as a frozen dataclass whose fields are the options.

    Fields:
        position_resize: how positional embeddings reach another patch grid, bicubic in each case: ``"scale_factor"``
            by the factors (h + 0.1) / g, as SCLIP's code and its successors do; ``"size"``, to the target size;
            ``"size_antialias"``, the same with antialiasing, as GEM does.

    Class attributes:
        name: the name in the registry, set by `register_method`.
        summary, source: one line each for ``sclip methods``: what it does, and the paper.
        needs_outside_model: it looks through a second model, which a comparison of all methods does not fetch.
        windows_itself: it is handed whole pictures, one at a time, and cuts and joins windows itself, by what
            ``context.windows[0].picture`` says.
    """

    position_resize: PositionResize = "scale_factor"

    name: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    source: ClassVar[str] = ""
    needs_outside_model: ClassVar[bool] = False
    windows_itself: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_fields(self, self.name or type(self).__name__)

    @property
    def needs_text(self) -> bool:
        """Whether what the method computes, with its options, depends on the words; `bind` then takes them."""
        return False

    def bind(self, *, text: Tensor, logit_scale: float, image_mean: Tensor, image_std: Tensor) -> Method:
        """The method for one question: the segmenter calls this before the method runs.

        Args:
            text: (K, D) float32, the unit embeddings of all names.
            logit_scale: the factor on cosines before the softmax, of the settings.
            image_mean, image_std: (3,), what ``context.pixel_values`` are normalised with.

        Returns:
            This method, or a copy that holds what it needs of it. A method with a field ``text`` gets it there.
        """
        return dataclasses.replace(self, text=text) if self.needs_text else self  # type: ignore[call-arg]

    def taps(self, depth: int) -> tuple[int, ...]:
        """Indices (from 0, of ``depth`` blocks) of earlier blocks whose input the method needs in ``context.taps``."""
        return ()

    def tokens_at_once(self, tower: Tower, size: tuple[int, int]) -> int:
        """Tokens of the largest map that a window of (height, width) pixels goes through: how much a batch may hold."""
        height, width = (max(1, side // patch) for side, patch in zip(size, tower.patch_size, strict=True))
        return height * width + tower.prefix_tokens

    def padded(self, size: tuple[int, int]) -> tuple[int, int]:
        """The (height, width) to which windows of ``size`` are padded with the mean colour, half of it in front."""
        return size

    @property
    def is_the_block(self) -> bool:
        """Whether the method, with its options, is the last block as it was trained."""
        return False

    def check_tower(self, tower: Tower) -> None:
        """Refuse a tower whose structure lacks what the method looks at.

        Raises:
            UnsupportedModelError: it has no attention, or one block where the method looks at earlier ones.
        """
        name, trunk = self.name or type(self).__name__, type(tower.trunk).__name__
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
    ) -> tuple[BlockInput, Context]:
        """Run all blocks but the last; see `sclip_plugin.towers.running.before_last_block`, which this calls.

        A method that puts windows together before the last block overrides it.
        """
        taps = self.taps(len(tower.blocks))
        return before_last_block(tower, pixel_values, taps, self.position_resize, hidden_states, windows)

    def __call__(self, block: BlockInput, context: Context) -> Tensor:
        """Tokens that leave the last block, (B, P + N, C): P prefix tokens (CLS), then N patches."""
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
        """What is added to the scaled scores before the softmax, broadcastable to (B, H, T, T); None for nothing."""
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
