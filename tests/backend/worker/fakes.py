"""A network that is a formula, and samplers over it: for tests of the step loop."""

from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import torch

from backend.components import Weights
from backend.guiders import BasicGuider, CfgGuider, Noise, Sampler
from backend.models.additions import Residuals
from backend.models.conditioning import NO_INPUTS
from backend.models.control_layout import HintFormat
from backend.models.latent import LatentFormat
from backend.ops import Denoise
from backend.references import Model
from backend.sampling.discretization import scaled_linear
from backend.sampling.prediction import Prediction
from backend.sampling.request import DenoiseRequest
from backend.sampling.run import Outcome
from backend.sampling.steer import conditions_of
from backend.types import Cond, Latent, OpKey
from backend.worker.conditions import Setting, resolve
from backend.worker.denoise import Denoising, Target

FORMAT = LatentFormat(channels=4, downscale=8, scale=0.5, rgb=((0.1, 0.2, 0.3),) * 4)
PREDICTION = Prediction("eps", scaled_linear())


class Formula:
    """Each row's output depends on that row alone; counts its passes."""

    def __init__(self, most_rows=10**6):
        self.passes, self.most_rows = [], most_rows

    def working_bytes(self, rows, shape):
        return 0

    def forward(self, x, timesteps, tokens, extra=None, adapters=(), additions=None):
        if len(x) > self.most_rows:
            raise torch.OutOfMemoryError(f"{len(x)} rows")
        self.passes.append(len(x))
        if tokens.isnan().any():
            raise FloatingPointError("tokens are not numbers")
        strength = torch.tensor([sum(patches) for patches in adapters] or [0.0] * len(x))
        shape = (-1, *[1] * (x.ndim - 1))
        for added in parts_of(additions):
            strength = strength + added.middle.mean((1, 2, 3))
        for i in additions.perturbed() if additions is not None else ():
            strength[i] += 0.5
        return (
            x * 0.3
            + tokens.mean((1, 2)).reshape(shape)
            + timesteps.reshape(shape) / 1e3
            + strength.reshape(shape)
        )


def parts_of(additions):
    """What control models add, at once and late."""
    if additions is None:
        return []
    late = [] if additions.late is None else [additions.late()]
    return late if additions.residuals is None else [additions.residuals, *late]


class ControlFormula:
    """A ControlNet whose residual is the mean of each row's hint; counts its rows."""

    hint = HintFormat()
    weights = Weights("controlnet", "c", ())

    def __init__(self, late=False):
        self.rows, self.late = [], late

    def begin(self, given):
        return partial(self.forward, given)

    def forward(self, given):
        self.rows.append(len(given.x))
        own = given.tokens.mean((1, 2)).reshape(-1, 1, 1, 1) * 0.1
        middle = given.hint.mean((1, 2, 3)).reshape(-1, 1, 1, 1) + own
        return Residuals((), middle)


def a_patch(use):
    """A LoRA that is a number: the formula adds it up."""
    return Added(use.strength)


@dataclass(frozen=True)
class Added:
    """strength: what it adds to each row that has it."""

    strength: float

    def __radd__(self, other):
        return other + self.strength


def a_cond(value=1.0, length=77, **options):
    return Cond(torch.full((1, length, 8), value), options=options)


def euler(x, sigmas):
    for step in range(len(sigmas) - 1):
        denoised = yield DenoiseRequest(x, sigmas[step], step)
        x = x + (x - denoised) / sigmas[step] * (sigmas[step + 1] - sigmas[step])
    return Outcome(x, denoised if len(sigmas) > 1 else None)


SIGMAS = torch.tensor([14.6, 7.0, 3.0, 1.0, 0.0])


class Plain:
    """The layout of a model that takes nothing beside its latent."""

    latent, in_channels = FORMAT, FORMAT.channels

    def conditioning(self, given):
        return NO_INPUTS


def a_model(**fields):
    return Model(Weights("denoiser", "fake", ()), **fields)


def steered(positive, negative=None, cfg=1.0, **model):
    """A guider that steers by these conditions."""
    if negative is None:
        return BasicGuider(a_model(**model), positive)
    return CfgGuider(a_model(**model), positive, negative, cfg)


def a_run(
    key="op",
    network=None,
    seed=0,
    size=4,
    steering=None,
    sampler=euler,
    sigmas=SIGMAS,
    patches=(),
    batch=1,
    nets=None,
    moved=None,
):
    """A run of a sampler on seeded noise."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, 4, size, size, generator=generator) * 14.6
    guider = steering or steered((a_cond(1.0),), (a_cond(-1.0),), cfg=3.0)
    most = float(sigmas[0])
    networks = SimpleNamespace(control=lambda net: nets[net], lora=a_patch)
    setting = Setting(Plain(), PREDICTION.range, x, None, networks, most)
    sides = resolve(conditions_of(guider), setting)
    target = Target(network or Formula(), PREDICTION, FORMAT, torch.device("cpu"), patches, moved=moved)

    def finish(outcome):
        return Latent(outcome.samples), Latent(
            outcome.samples if outcome.denoised is None else outcome.denoised
        )

    return Denoising(OpKey(key), sampler(x, sigmas), target, (guider, sides), len(sigmas) - 1, finish)


def an_op(cfg=3.0):
    guider = CfgGuider(a_model(), (a_cond(1.0),), (a_cond(-1.0),), cfg)
    return Denoise(guider, Latent(torch.zeros(1, 4, 4, 4)), Noise(0), Sampler("euler"), SIGMAS)
