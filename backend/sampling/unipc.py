"""UniPC: unified predictor and corrector, arXiv:2302.04867, in its data-predicting B(h) forms, order 3.

It runs in variance-preserving units: signal share alpha = 1 / sqrt(1 + sigma^2) and noise share
sqrt(1 - alpha^2). The shares are computed in float32, as ComfyUI does: near sigma 0.001 that rounding shows.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from backend.sampling.request import DenoiseRequest, RunFacts, Sampler
from backend.values import frozen

ORDER = 3
LAST_SIGMA = 0.001  # stands in for a last sigma of 0, whose log-SNR is infinite


@frozen(eq=False)
class Point:
    """A noise level. log_signal: log alpha; noise: the noise share; time: the half log-SNR."""

    sigma: Tensor
    log_signal: Tensor
    noise: Tensor
    time: Tensor

    @property
    def signal(self) -> Tensor:
        return self.log_signal.exp()

    def full(self, x: Tensor) -> Tensor:
        """x of these units -> the model's."""
        return x * (self.sigma**2 + 1.0) ** 0.5

    def data(self, x: Tensor, denoised: Tensor) -> Tensor:
        """The estimate of the clean latent, through the noise: equal to `denoised` but for the shares'
        rounding.
        """
        eps = (self.full(x) - denoised) / self.sigma
        return (x - self.noise * eps) / self.signal


def uni_pc(x: Tensor, sigmas: Tensor, facts: RunFacts) -> Sampler:
    """B(h) = h."""
    return _uni_pc(x, sigmas, fast=False)


def uni_pc_bh2(x: Tensor, sigmas: Tensor, facts: RunFacts) -> Sampler:
    """B(h) = e^h - 1, for few steps."""
    return _uni_pc(x, sigmas, fast=True)


def _uni_pc(x: Tensor, sigmas: Tensor, fast: bool) -> Sampler:
    """One evaluation per step, made where the last step's prediction lies; it corrects that step too.

    A schedule of one step evaluates once and only scales x to a clean latent's variance, as ComfyUI's does.
    """
    points = [point(s) for s in _ending(sigmas)]
    count = len(points) - 1
    if count < 1:
        return x
    order = min(ORDER, count - 1)
    denoised = yield DenoiseRequest(x, points[0].sigma, 0)
    x = x / (1.0 + points[0].sigma ** 2.0).sqrt()
    past = [(points[0], points[0].data(x, denoised))]  # newest first
    for step in range(1, count + 1 if order else 1):
        move = Move(past, points[step], min(order, step, count + 1 - step), fast)
        predicted = move.predict(x)
        if step == count:
            x = predicted
        else:
            denoised = yield DenoiseRequest(points[step].full(predicted), points[step].sigma, step)
            estimate = points[step].data(predicted, denoised)
            x = move.correct(x, estimate)
            past = [(points[step], estimate), *past][:order]
    return x / points[-1].signal


def point(sigma: Tensor) -> Point:
    """The noise level of a sigma > 0."""
    log_signal = 0.5 * torch.log(1 / (sigma * sigma + 1))
    variance = 1.0 - torch.exp(2.0 * log_signal)
    return Point(sigma, log_signal, variance.sqrt(), log_signal - 0.5 * variance.log())


@frozen(eq=False)
class Move:
    """A step from the newest of `past` (level and estimate, newest first) to a level, of that order."""

    past: Sequence[tuple[Point, Tensor]]
    to: Point
    order: int
    fast: bool

    def predict(self, x: Tensor) -> Tensor:
        """x at the end, from past estimates alone."""
        if self.order == 1:
            return self._first(x)
        matrix, right = self._system()
        weights = (
            [torch.tensor(0.5)] if self.order == 2 else list(torch.linalg.solve(matrix[:-1, :-1], right[:-1]))
        )
        return self._first(x) - self.to.signal * self._scale * _sum(weights, self._differences())

    def correct(self, x: Tensor, estimate: Tensor) -> Tensor:
        """x at the end, from past estimates and the one made there."""
        matrix, right = self._system()
        weights = [torch.tensor(0.5)] if self.order == 1 else list(torch.linalg.solve(matrix, right))
        change = _sum(weights, [*self._differences(), estimate - self.past[0][1]])
        return self._first(x) - self.to.signal * self._scale * change

    @property
    def _h(self) -> Tensor:
        """Minus the step's length: UniPC predicts the data."""
        return self.past[0][0].time - self.to.time

    @property
    def _scale(self) -> Tensor:
        return torch.expm1(self._h) if self.fast else self._h

    def _first(self, x: Tensor) -> Tensor:
        start, estimate = self.past[0]
        return self.to.noise / start.noise * x - self.to.signal * torch.expm1(self._h) * estimate

    def _places(self) -> list[Tensor]:
        """Where earlier levels lie, in steps from the newest; negative."""
        newest = self.past[0][0].time
        return [(level.time - newest) / -self._h for level, _ in self.past[1 : self.order]]

    def _differences(self) -> list[Tensor]:
        newest = self.past[0][1]
        earlier = self.past[1 : self.order]
        return [(e - newest) / place for (_, e), place in zip(earlier, self._places(), strict=True)]

    def _system(self) -> tuple[Tensor, Tensor]:
        """The linear system that the weights solve: eq. (8) of the paper."""
        places = torch.stack([*self._places(), torch.ones(())])
        right, factorial = [], 1
        phi = torch.expm1(self._h) / self._h - 1
        for k in range(1, self.order + 1):
            right.append(phi * factorial / self._scale)
            factorial *= k + 1
            phi = phi / self._h - 1 / factorial
        return torch.stack([places ** (k - 1) for k in range(1, self.order + 1)]), torch.stack(right)


def _ending(sigmas: Tensor) -> Tensor:
    if len(sigmas) == 0 or sigmas[-1] != 0:
        return sigmas
    return torch.cat([sigmas[:-1], sigmas.new_tensor([LAST_SIGMA])])


def _sum(weights: Sequence[Tensor], terms: Sequence[Tensor]) -> Tensor:
    return sum((w * t for w, t in zip(weights, terms, strict=True)), torch.zeros_like(terms[0]))
