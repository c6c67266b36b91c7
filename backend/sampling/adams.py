"""SA-Solver: a stochastic Adams predictor and corrector, arXiv:2309.05019. Notation as in sde.py.

tau is the strength of the noise at a sigma: `eta` inside the stretch of the range where noise is wanted,
else 0.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from backend.errors import UnsupportedOption
from backend.sampling.noise import ancestral_noise
from backend.sampling.request import DenoiseRequest, RunFacts, Sampler, steps
from backend.sampling.sde import finite_start, log_snr
from backend.values import frozen

MAX_ORDER = 6


def sa_solver(
    x: Tensor,
    sigmas: Tensor,
    facts: RunFacts,
    *,
    eta: float = 1.0,
    sde_start_percent: float = 0.2,
    sde_end_percent: float = 0.8,
    s_noise: float = 1.0,
    predictor_order: int = 3,
    corrector_order: int = 4,
    use_pece: bool = False,
    simple_order_2: bool = False,
) -> Sampler:
    """Each step's evaluation corrects the step before it, then predicts the next.

    predictor_order 1..6, corrector_order 0 (none)..6; use_pece: the corrected latent is evaluated again;
    simple_order_2: the paper's simpler second-order weights (appendix D).
    """
    _check_orders(predictor_order, corrector_order)
    noise = ancestral_noise(x, facts.seed)
    sigmas = finite_start(sigmas, facts.prediction)
    times = log_snr(sigmas, facts.prediction)
    stretch = tuple(facts.prediction.range.percent_to_sigma(p) for p in (sde_start_percent, sde_end_percent))
    orders = Orders(
        predictor_order, corrector_order, len(sigmas), bool(len(sigmas)) and float(sigmas[-1]) == 0
    )
    predicted, fresh, tau = x, torch.zeros_like(x), 0.0
    estimates: list[Tensor] = []
    for step, sigma, sigma_next in steps(sigmas):
        denoised = yield DenoiseRequest(predicted, sigma, step)
        estimates = [*estimates, denoised][-max(predictor_order, corrector_order) :]
        order = 0 if sigma_next == 0 and not use_pece else orders.corrector(step, len(estimates))
        if order == 0:
            x = predicted
        else:
            now = Interval(sigmas, times, step - 1, tau, simple_order_2)
            weights = now.weights(times[step - order + 1 : step + 1], corrects=True)
            x = now.keep * x + _mixed(weights, estimates) + fresh
            if use_pece:
                denoised = yield DenoiseRequest(x, sigma)
                estimates[-1] = denoised
        if sigma_next == 0:
            x = denoised
            continue
        tau = eta if stretch[0] >= float(sigma_next) >= stretch[1] else 0.0
        now = Interval(sigmas, times, step, tau, simple_order_2)
        order = orders.predictor(step, len(estimates))
        weights = now.weights(times[step - order + 1 : step + 1], corrects=False)
        noisy = tau > 0 and s_noise > 0
        fresh = noise(sigma, sigma_next) * now.noise * s_noise if noisy else torch.zeros_like(x)
        predicted = now.keep * x + _mixed(weights, estimates) + fresh
    return x


def sa_solver_pece(
    x: Tensor,
    sigmas: Tensor,
    facts: RunFacts,
    *,
    eta: float = 1.0,
    sde_start_percent: float = 0.2,
    sde_end_percent: float = 0.8,
    s_noise: float = 1.0,
    predictor_order: int = 3,
    corrector_order: int = 4,
    simple_order_2: bool = False,
) -> Sampler:
    """sa_solver, evaluating each corrected latent once more."""
    return sa_solver(
        x,
        sigmas,
        facts,
        eta=eta,
        sde_start_percent=sde_start_percent,
        sde_end_percent=sde_end_percent,
        s_noise=s_noise,
        predictor_order=predictor_order,
        corrector_order=corrector_order,
        use_pece=True,
        simple_order_2=simple_order_2,
    )


@frozen
class Orders:
    """The order each step may use: what history there is, and less towards a schedule's end at 0."""

    most_predictor: int
    most_corrector: int
    sigmas: int
    to_zero: bool

    def predictor(self, step: int, known: int) -> int:
        order = min(self.most_predictor, known)
        return min(order, self.sigmas - 2 - step) if self.to_zero else order

    def corrector(self, step: int, known: int) -> int:
        if step == 0:
            return 0
        order = min(self.most_corrector, known)
        return min(order, self.sigmas - 1 - step) if self.to_zero else order


@frozen(eq=False)
class Interval:
    """The step that starts at index `at` of a schedule, under noise of strength tau."""

    sigmas: Tensor
    times: Tensor
    at: int
    tau: float
    simple: bool

    @property
    def h(self) -> Tensor:
        return self.times[self.at + 1] - self.times[self.at]

    @property
    def keep(self) -> Tensor:
        """The factor on the latent at the step's start."""
        return self.sigmas[self.at + 1] / self.sigmas[self.at] * (-(self.tau**2) * self.h).exp()

    @property
    def noise(self) -> Tensor:
        """The deviation of the step's noise."""
        return self.sigmas[self.at + 1] * (-2 * self.tau**2 * self.h).expm1().neg().sqrt()

    def weights(self, nodes: Tensor, corrects: bool) -> Tensor:
        """Weights of the estimates at times `nodes`, oldest first: eqs. (15) and (18) of the paper."""
        alpha = self.sigmas[self.at + 1] * self.times[self.at + 1].exp()
        if self.simple and len(nodes) == 2:
            return alpha * self._simple_weights(nodes, corrects)
        powers = torch.vander(nodes, len(nodes), increasing=True).T
        basis: Tensor = torch.linalg.solve(powers, self._moments(len(nodes)))
        return alpha * basis

    def _moments(self, order: int) -> Tensor:
        """(1 + tau^2) * integral of e^((1 + tau^2) (t - end)) * t^p over the step, p = 0 .. order - 1.

        By parts: each moment is a boundary term minus p / (1 + tau^2) times the moment before it.
        """
        rate = 1 + self.tau**2
        start, end = self.times[self.at], self.times[self.at + 1]
        p = torch.arange(order, dtype=start.dtype)
        boundary = end**p - start**p * (-rate * self.h).exp()
        factors = [
            [
                (-1) ** (i - j) * math.factorial(i) / math.factorial(j) / rate ** (i - j) if j <= i else 0.0
                for j in range(order)
            ]
            for i in range(order)
        ]
        return torch.tensor(factors, dtype=start.dtype) @ boundary

    def _simple_weights(self, nodes: Tensor, corrects: bool) -> Tensor:
        rate = 1 + self.tau**2
        whole = (-self.h * rate).expm1().neg()
        if corrects:
            newest = 0.5 * rate * self.h
            return torch.stack([whole - newest, newest])
        oldest = 0.5 * rate * self.h**2 / (nodes[-2] - self.times[self.at])
        return torch.stack([oldest, whole - oldest])


def _mixed(weights: Tensor, estimates: Sequence[Tensor]) -> Tensor:
    newest = estimates[-len(weights) :]
    return sum((w * e for w, e in zip(weights, newest, strict=True)), torch.zeros_like(newest[0]))


def _check_orders(predictor: int, corrector: int) -> None:
    if not 1 <= predictor <= MAX_ORDER:
        raise UnsupportedOption("predictor_order", predictor, f"Use 1 to {MAX_ORDER}.")
    if not 0 <= corrector <= MAX_ORDER:
        raise UnsupportedOption("corrector_order", corrector, f"Use 0 to {MAX_ORDER}.")
