import torch
import torch.nn.functional as F
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from backend.models.adapters import SidePath, Site, adapt, applied
from backend.models.changes import Delta
from backend.models.upsampler import Upsampler, install_upsamplers
from tests.backend.models.conftest import CPU, relative


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def a_network() -> nn.Module:
    """One upsampler, installed and adapted as networks are, with weights."""
    network = nn.Module()
    network.up = Upsample2D(6, use_conv=True, out_channels=4)
    install_upsamplers(network)
    adapt(network)
    weights = {"up.conv.weight": noise(4, 6, 3, 3), "up.conv.bias": noise(4)}
    network.load_state_dict(weights, strict=True, assign=True)
    return network.requires_grad_(False)


def plain(network: nn.Module, x: Tensor, size: tuple[int, int]) -> Tensor:
    conv = network.get_submodule("up.conv")
    assert isinstance(conv, nn.Conv2d)
    return F.conv2d(F.interpolate(x, size=size, mode="nearest"), conv.weight, conv.bias, padding=1)


def test_an_upsampler_gives_what_a_convolution_of_the_larger_picture_gives():
    network, x = a_network(), noise(2, 6, 5, 7)
    assert isinstance(network.up, Upsampler)
    for size in (None, (10, 14)):
        assert relative(network.up(x, size), plain(network, x, (10, 14))) < 1e-6


def test_other_formats_and_derivatives_take_the_larger_picture():
    network, x = a_network().double(), noise(1, 6, 5, 7).double()
    assert torch.equal(network.up(x), plain(network, x, (10, 14)))
    network, x = a_network(), noise(1, 6, 5, 7).requires_grad_()
    network.up(x).sum().backward()
    assert x.grad is not None


def test_a_size_that_is_not_twice_is_reached_too():
    network, x = a_network(), noise(1, 6, 5, 7)
    assert torch.equal(network.up(x, (9, 13)), plain(network, x, (9, 13)))


def test_side_paths_are_added():
    network, x = a_network(), noise(2, 6, 5, 5)
    delta = Delta(weight=noise(4, 6, 3, 3) * 0.1)
    path = SidePath(delta, slice(1, 2), torch.tensor([0.5]))
    with applied({"up.conv": Site((path,))}):
        changed = network.up(x)
    larger = F.interpolate(x, scale_factor=2.0, mode="nearest")
    assert delta.weight is not None
    side = F.conv2d(larger, delta.weight, padding=1) * torch.tensor([0.0, 0.5]).reshape(2, 1, 1, 1)
    assert relative(changed, plain(network, x, (10, 10)) + side) < 1e-6


def test_an_upsampler_has_the_files_names():
    network = a_network()
    assert sorted(network.state_dict()) == ["up.conv.bias", "up.conv.weight"]
    assert next(network.parameters()).device == CPU
