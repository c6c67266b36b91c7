"""What LoRA files call a layer, where that says more than a name."""

from backend.values import frozen


@frozen
class LayerName:
    """What a LoRA file may call a layer. part: where that names several, the layer's part of their outputs,
    as (first, last + 1, of); None: all.
    """

    name: str
    part: tuple[int, int, int] | None = None

    def fused(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of all that it names, where the layer has `shape`."""
        if self.part is None:
            return shape
        first, last, of = self.part
        return (shape[0] // (last - first) * of, *shape[1:])
