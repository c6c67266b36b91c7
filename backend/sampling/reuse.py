"""When an output may be made from the last one: EasyCache (arXiv:2507.02860), by call or by result.

An output is taken to differ from its input by as much as it last did. How much that errs is estimated from
how far the input moved, by the ratio in which outputs last followed inputs; errors add up until a threshold.
"""

from dataclasses import dataclass

from torch import Tensor

STRIDE = 8  # of the places that are looked at, each way


@dataclass(slots=True, eq=False)
class Drift:
    """What is known of the last real evaluation. threshold: of the estimated relative errors' sum.

    ratio: how far the output moved for each step of the input; None: not known yet.
    """

    threshold: float
    ratio: Tensor | float | None = None
    error: Tensor | float = 0.0
    input: Tensor | None = None
    output: Tensor | None = None
    size: Tensor | float = 0.0

    def reuses(self, x: Tensor) -> bool:
        """Whether the evaluation of x may be left out; its estimated error is entered either way."""
        if self.input is None or self.ratio is None:
            return False
        self.error = self.error + self.ratio * _distance(x, self.input) / self.size
        if self.error < self.threshold:
            return True
        self.error = 0.0
        return False

    def learn(self, x: Tensor, output: Tensor, beside: Tensor, follows: bool) -> None:
        """Take in an evaluation. beside: all outputs that its size is measured by; follows: the ratio is
        taken from it.
        """
        if follows and self.input is not None and self.output is not None:
            self.ratio = _distance(output, self.output) / _distance(x, self.input)
        self.input, self.output = _seen(x), _seen(output)
        self.size = beside.abs().mean()

    def forget(self) -> None:
        """After a change of shape: as ComfyUI has it, outputs are then taken not to move at all at first."""
        self.ratio, self.error, self.input, self.output = 0.0, 0.0, None, None


def _seen(x: Tensor) -> Tensor:
    return x[..., ::STRIDE, ::STRIDE].clone()


def _distance(x: Tensor, seen: Tensor) -> Tensor:
    return (x[..., ::STRIDE, ::STRIDE] - seen).abs().mean()
