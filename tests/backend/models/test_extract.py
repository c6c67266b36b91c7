import torch
from safetensors.torch import load_file

from backend.components import Blend, LoraUse, Share, Source, blended
from backend.models.blend import open_weights
from backend.models.denoiser import outline
from backend.models.extract import decomposed, lora_entries
from backend.models.saved import write
from backend.references import Model
from tests.backend.models.conftest import relative, weights_of


def test_a_matrix_of_low_rank_is_found_again_but_for_its_extremes():
    random = torch.Generator().manual_seed(0)
    matrix = torch.randn(40, 3, generator=random) @ torch.randn(3, 30, generator=random)
    up, down = decomposed(matrix, 3)
    assert (up.shape, down.shape) == ((40, 3), (3, 30))
    assert relative(up @ down, matrix) < 0.2  # one value of a hundred is clipped
    kernel_up, kernel_down = decomposed(matrix.reshape(40, 10, 3, 1), 5)
    assert (kernel_up.shape, kernel_down.shape) == ((40, 5, 1, 1), (5, 10, 3, 1))


def test_a_full_difference_put_on_the_base_gives_the_other_model(tiny, tmp_path):
    base = weights_of(tiny, "denoiser")
    twice = blended(Blend(Source(base), Source(base), (Share("", 1.0, 1.0),)))
    difference = blended(Blend(Source(twice), Source(base), (Share("", 1.0, -1.0),)))
    entries = lora_entries(Model(difference), None, 4, "full_diff", biases=True)
    assert all(name.startswith("diffusion_model.") for name in entries)
    write(tmp_path / "lora.safetensors", entries, None)
    use = LoraUse(weights_of(tmp_path / "lora.safetensors", "lora"), 1.0)
    made = dict(open_weights(blended(Blend(Source(base, (use,)))), outline).tensors())
    own = load_file(tiny)
    for name in ("input_blocks.1.0.in_layers.2.weight", "input_blocks.1.0.in_layers.2.bias"):
        name = f"model.diffusion_model.{name}"
        assert torch.allclose(made[name].float(), own[name].float() * 2, atol=1e-2), name
