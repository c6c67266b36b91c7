"""What other devices ask this one to compute of their runs (`lending.py`)."""

from torch import Tensor

from backend.models.additions import Residuals
from backend.models.denoiser import Denoiser
from backend.models.lora import Patch
from backend.types import OpKey
from backend.worker.batch import Control, ModelCall
from backend.worker.bench import Bench
from backend.worker.lending import ControlLoan, LentControl, Loan


def evaluate(loan: Loan, bench: Bench, max_rows: int) -> Tensor:
    """The raw output of a model call: [B, ...]. Raises: as `execute.start`, and OutOfMemory."""
    residents, model = bench.residents, loan.model

    def loaded(offloaded: bool) -> tuple[Denoiser, tuple[Patch, ...]]:
        denoiser = residents.denoiser(model.weights, offloaded)
        return denoiser, residents.patches(model.weights, model.loras)

    network, patches = bench.ladder.loaded("loading a denoiser", loaded)
    call = ModelCall(
        OpKey("lent"),
        network,
        loan.x.to(network.device),
        loan.timesteps.to(network.device),
        loan.tokens.to(network.device),
        {name: value.to(network.device) for name, value in loan.extra.items()},
        patches,
        controls=tuple(_control(lent, bench) for lent in loan.controls),
    )
    (output,), _ = bench.ladder.passes([call], max_rows)
    return output


def evaluate_control(loan: ControlLoan, bench: Bench) -> Residuals:
    """What a control model adds to a pass. Raises: BadFile, UnsupportedOption, OutOfMemory."""
    network = bench.control(loan.weights)
    return bench.ladder.attempt("a ControlNet's pass", lambda: network.forward(loan.given))


def _control(lent: LentControl, bench: Bench) -> Control:
    network = bench.control(lent.weights)
    tokens = None if lent.tokens is None else lent.tokens.to(network.device)
    hint = lent.hint.to(network.device)
    return Control(network, hint, lent.strength, lent.average, tokens, lent.kind)
