"""Functions that packs put into a UNet's blocks: patches of `transformer_options`, as ComfyUI calls them."""

from typing import Any

from torch import Tensor

ATTENTION = ("attn1", "attn2")
# What the server's UNets call. Others are refused, so that nothing is left out in silence.
PATCHES = frozenset(
    {
        "attn1_patch",
        "attn2_patch",
        "attn1_output_patch",
        "attn2_output_patch",
        "input_block_patch",
        "input_block_patch_after_skip",
        "output_block_patch",
    }
)


class BlockCode:
    """`models.additions.BlockCode` over one pass' options."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._patches: dict[str, list[Any]] = options.get("patches") or {}
        self._replaced: dict[str, dict[Any, Any]] = options.get("patches_replace") or {}
        self._options = {k: v for k, v in options.items() if k not in ("patches", "patches_replace")}
        self._block = ("input", 0)

    @classmethod
    def of(cls, options: dict[str, Any]) -> "BlockCode | None":
        """None where the blocks are left alone."""
        return cls(options) if options.get("patches") or options.get("patches_replace") else None

    def enter(self, kind: str, number: int) -> None:
        """The blocks that follow: input, middle or output, by the checkpoints' numbers."""
        self._block = (kind, number)

    def inputs(
        self, own: bool, index: int, x: Tensor, context: Tensor, heads: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What queries, keys and values are made of."""
        value = context
        for patch in self._patches.get(f"{_name(own)}_patch", ()):
            x, context, value = patch(x, context, value, self._extra(index, x, heads))
        return x, context, value

    def attention(
        self, own: bool, index: int, query: Tensor, key: Tensor, value: Tensor, heads: int
    ) -> Tensor | None:
        """The attention by a function in its place; None where there is none."""
        replaced = self._replaced.get(_name(own)) or {}
        function = replaced.get((*self._block, index)) or replaced.get(self._block)
        if function is None:
            return None
        made: Tensor = function(query, key, value, self._extra(index, query, heads))
        return made

    def output(self, own: bool, index: int, out: Tensor, heads: int) -> Tensor:
        """The attention's output."""
        for patch in self._patches.get(f"{_name(own)}_output_patch", ()):
            out = patch(out, self._extra(index, out, heads))
        return out

    def after_input(self, h: Tensor, after_skip: bool) -> Tensor:
        """What an input block hands on."""
        name = "input_block_patch_after_skip" if after_skip else "input_block_patch"
        for patch in self._patches.get(name, ()):
            h = patch(h, {**self._options, "block": self._block})
        return h

    def before_output(self, h: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        """What goes into an output block."""
        for patch in self._patches.get("output_block_patch", ()):
            h, skip = patch(h, skip, {**self._options, "block": self._block})
        return h, skip

    def _extra(self, index: int, x: Tensor, heads: int) -> dict[str, Any]:
        return {
            **self._options,
            "block": self._block,
            "block_index": index,
            "n_heads": heads,
            "dim_head": x.shape[-1] // heads,
            "attn_precision": None,
        }


def _name(own: bool) -> str:
    return ATTENTION[0 if own else 1]
