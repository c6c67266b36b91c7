"""What a network predicts and how that becomes a denoised latent.

Here x is the noisy latent [B, ...], sigma a scalar tensor or one value per row [B].
"""

from typing import Literal

from torch import Tensor

from backend.sampling.discretization import NoiseRange, sigma_max
from backend.values import frozen

Kind = Literal["eps", "v", "edm", "x0", "img_to_img", "lcm", "flow", "scaled_flow"]
LCM_DATA, LCM_TIME = 0.5, 10.0  # arXiv:2310.04378: sigma_data and the timestep's factor of its boundary
SAME_SIGMA = 1e-5  # relative: a schedule that starts this near to the range's end starts from pure noise


@frozen(eq=False)
class Prediction:
    """A model's noise range and the meaning of its output.

    kind: the noise (eps; lcm: of a consistency model), arXiv:2010.02502's v (v), EDM's raw output (edm), the
    latent itself (x0; img_to_img: of a network that is shown x as it is), or the velocity of a flow (flow;
    scaled_flow: of one whose noise is added, and scaled into the mixture for the network, as Cosmos has it).
    sigma_data: the deviation of clean latents that EDM scales by.
    """

    kind: Kind
    range: NoiseRange
    sigma_data: float = 1.0

    @property
    def flow(self) -> bool:
        """Noise and latent are mixed by (sigma, 1 - sigma) rather than added."""
        return self.kind == "flow"

    def timestep(self, sigma: Tensor) -> Tensor:
        """The network's time for a sigma, the same shape."""
        return self.range.timestep(sigma)

    def scale_input(self, x: Tensor, sigma: Tensor) -> Tensor:
        """What the network is shown for x."""
        if self.kind in ("flow", "img_to_img"):
            return x
        sigma = per_row(sigma, x)
        if self.kind == "scaled_flow":
            return x * (1.0 - _share(sigma))
        return x / (sigma**2 + self.sigma_data**2) ** 0.5

    def denoised(self, x: Tensor, output: Tensor, sigma: Tensor) -> Tensor:
        """The estimate of the clean latent. x: unscaled, output: the network's, both [B, ...]."""
        if self.kind in ("x0", "img_to_img"):
            return output
        if self.kind == "lcm":
            return self._consistent(x, output, sigma)
        sigma = per_row(sigma, x)
        if self.kind in ("eps", "flow"):
            return x - output * sigma
        if self.kind == "scaled_flow":
            share = _share(sigma)
            return x * (1.0 - share) - output * share
        variance = sigma**2 + self.sigma_data**2
        part = output * sigma * self.sigma_data / variance**0.5
        kept = x * self.sigma_data**2 / variance
        return kept - part if self.kind == "v" else kept + part

    def _consistent(self, x: Tensor, output: Tensor, sigma: Tensor) -> Tensor:
        """The consistency function: x itself without noise, the denoised latent with much of it."""
        time = per_row(self.timestep(sigma), x) * LCM_TIME
        kept = LCM_DATA**2 / (time**2 + LCM_DATA**2)
        part = time / (time**2 + LCM_DATA**2) ** 0.5
        return part * (x - output * per_row(sigma, x)) + kept * x

    def noise_scaling(self, sigma: Tensor, noise: Tensor, latent: Tensor, full: bool = False) -> Tensor:
        """`latent` brought to noise level sigma. full: sigma is the range's end, so no signal is to be left
        out.
        """
        sigma = per_row(sigma, noise)
        if self.flow:
            return sigma * noise + (1.0 - sigma) * latent
        full = full and self.kind != "scaled_flow"
        return noise * ((1.0 + sigma**2.0).sqrt() if full else sigma) + latent

    def inverse_noise_scaling(self, sigma: Tensor, x: Tensor) -> Tensor:
        """What a run that ended at sigma hands out: a flow's latent is scaled back to its full strength."""
        return x / (1.0 - per_row(sigma, x)) if self.flow else x

    def is_full(self, sigma: float) -> bool:
        """A run that starts at `sigma` starts from pure noise."""
        top = sigma_max(self.range)
        return sigma > top or abs(top - sigma) <= SAME_SIGMA * max(abs(top), abs(sigma))


def _share(sigma: Tensor) -> Tensor:
    """Of the noise in the mixture that is x scaled to unit strength."""
    return sigma / (sigma + 1.0)


def per_row(sigma: Tensor, like: Tensor) -> Tensor:
    """sigma [B] -> [B, 1, ...] with the dimensions of `like`; a scalar stays one."""
    return sigma.reshape(sigma.shape[:1] + (1,) * (like.ndim - 1)) if sigma.ndim else sigma
