"""One sampling run: a latent and noise in, samples out, with a sampler's requests in between."""

from collections.abc import Generator
from dataclasses import replace
from typing import TypeAlias

import torch
from torch import Tensor

from backend.sampling.noise import masked_noise
from backend.sampling.prediction import Prediction
from backend.sampling.request import DenoiseRequest
from backend.sampling.samplers import Options, make_sampler
from backend.sampling.unipc import LAST_SIGMA
from backend.values import frozen

RENOISES_MASKED = frozenset({"ddim"})  # these fill the kept part with other noise than the run's
SHORT_OF_ZERO = frozenset({"uni_pc", "uni_pc_bh2"})  # these end at LAST_SIGMA where the schedule says 0


@frozen(eq=False)
class Outcome:
    """samples [B, ...]; denoised: the estimate of the last step, None where no step ran. Both in model
    space.
    """

    samples: Tensor
    denoised: Tensor | None


Run: TypeAlias = Generator[DenoiseRequest, Tensor, Outcome]


def sample(
    latent: Tensor,
    noise: Tensor,
    sigmas: Tensor,
    *,
    sampler: str,
    prediction: Prediction,
    seed: int,
    mask: Tensor | None = None,
    differential: float | None = None,
    options: Options = (),
) -> Run:
    """A whole run as a generator of requests.

    Args: latent and noise float32 [B, ...], in the model's space and on its device (zeros for a disabled
    noise);
        sigmas float32 [steps + 1]; seed drives the noise of stochastic samplers; mask as `latent`, 1 where
        it is sampled and 0 where `latent` is kept (`fit_mask` makes it); differential: the strength of a mask
        whose shades say from when on each place is sampled, None: an ordinary one.
    Returns: the Outcome. Without sigmas that is the latent itself, which callers then hand back untouched;
    one
        sigma noises it and runs no step.
    Raises: UnsupportedOption for an unknown sampler or option.
    """
    if len(sigmas) == 0:
        return Outcome(latent, None)
    sigmas = sigmas.detach().float().cpu()
    x = prediction.noise_scaling(sigmas[0], noise, latent, prediction.is_full(float(sigmas[0])))
    requests = make_sampler(sampler, x, sigmas, prediction=prediction, seed=seed, options=options)
    kept = None
    if mask is not None:
        fill = masked_noise(noise.shape, seed).to(noise) if sampler in RENOISES_MASKED else noise
        shades = None if differential is None else Shades(differential, sigmas)
        kept = Kept(latent, fill, mask, prediction, shades)
    samples, denoised = yield from _answered(requests, kept)
    last = sigmas[-1]
    if sampler in SHORT_OF_ZERO and last == 0:
        last = torch.full_like(last, LAST_SIGMA)
    return Outcome(prediction.inverse_noise_scaling(last, samples), denoised)


@frozen(eq=False)
class Shades:
    """Differential diffusion (arXiv:2306.00950): a place is sampled once the run is down to its shade.

    strength: of that, against the mask as it is; 0 and 1 mean all of it. sigmas: the run's.
    """

    strength: float
    sigmas: Tensor

    def mask(self, mask: Tensor, sigma: Tensor, prediction: Prediction) -> Tensor:
        """The mask at a noise level. The way down is measured in the network's time."""
        last = self.sigmas[-1].clamp_min(float(prediction.range.sigmas[0]))
        start, end, now = (prediction.timestep(level) for level in (self.sigmas[0], last, sigma))
        reached = (mask >= ((now - end) / (start - end)).to(mask)).to(mask.dtype)
        if not 0 < self.strength < 1:
            return reached
        return self.strength * reached + (1 - self.strength) * mask


@frozen(eq=False)
class Kept:
    """The part of a masked run that is not sampled: it follows `latent`, with `noise`, down the schedule."""

    latent: Tensor
    noise: Tensor
    mask: Tensor
    prediction: Prediction
    shades: Shades | None = None

    def at(self, sigma: Tensor) -> Tensor:
        """The mask at a noise level."""
        return self.mask if self.shades is None else self.shades.mask(self.mask, sigma, self.prediction)

    def before(self, request: DenoiseRequest) -> DenoiseRequest:
        """The request as the model sees it."""
        mask = self.at(request.sigma)
        follows = self.prediction.noise_scaling(request.sigma, self.noise, self.latent)
        return replace(request, x=request.x * mask + follows * (1.0 - mask))

    def after(self, reply: Tensor, request: DenoiseRequest) -> Tensor:
        """The reply as the sampler sees it; an unconditional estimate is left as it is."""
        mask = self.at(request.sigma)
        guided = (reply[0] if request.uncond else reply) * mask + self.latent * (1.0 - mask)
        return torch.stack([guided, reply[1]]) if request.uncond else guided


def _answered(
    requests: Generator[DenoiseRequest, Tensor, Tensor], kept: Kept | None
) -> Generator[DenoiseRequest, Tensor, tuple[Tensor, Tensor | None]]:
    """The sampler's result and the last step's estimate."""
    last: Tensor | None = None
    try:
        request = next(requests)
        while True:
            reply = yield request if kept is None else kept.before(request)
            if kept is not None:
                reply = kept.after(reply, request)
            if request.step is not None:
                last = reply[0] if request.uncond else reply
            request = requests.send(reply)
    except StopIteration as end:
        return end.value, last


def fit_mask(mask: Tensor, shape: torch.Size | tuple[int, ...]) -> Tensor:
    """A noise mask float32 [B, H, W] or [B, 1, H, W] (video: also [B, 1, T, H, W]), resized to a latent's
    `shape`.

    Bilinear (trilinear for video) to the latent's size, repeated over its channels and, first to last, its
    rows.
    """
    size = tuple(shape[2:])
    if len(size) == 3 and mask.ndim < 5:
        mask = mask.reshape(1, 1, -1, *mask.shape[-2:])
    elif len(size) == 2:
        mask = mask.reshape(-1, 1, *mask.shape[-2:])
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(size)]
    fitted = torch.nn.functional.interpolate(mask.float(), size=size, mode=mode)
    if fitted.shape[1] < shape[1]:
        fitted = fitted.repeat(1, shape[1], *(1 for _ in size))[:, : shape[1]]
    copies = -(-shape[0] // fitted.shape[0])
    return fitted.repeat(copies, *(1 for _ in fitted.shape[1:]))[: shape[0]]
