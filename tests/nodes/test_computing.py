import pytest

from backend.components import File, Weights
from backend.references import Model
from tests.nodes.build import run

MODEL = Model(Weights("denoiser", "d", (File("m", 1, 1, 1),)))


def test_a_model_in_another_number_format_is_another_component():
    half = run("ModelComputeDtype", model=MODEL, dtype="bf16")
    assert half.weights.id == "denoiser@d:bf16"
    assert half != MODEL
    assert run("ModelComputeDtype", model=half, dtype="default") == MODEL


@pytest.mark.parametrize("backend", ["inductor", "cudagraphs"])
def test_compiling_changes_no_result(backend):
    assert run("TorchCompileModel", model=MODEL, backend=backend) is MODEL
