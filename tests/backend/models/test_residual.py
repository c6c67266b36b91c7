import pytest
import torch
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from backend.models.residual import ResidualBlock, install_residuals
from tests.backend.models.conftest import relative


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def a_block(out: int, time: int | None, **more: object) -> ResnetBlock2D:
    torch.manual_seed(out)
    return ResnetBlock2D(
        in_channels=8, out_channels=out, temb_channels=time, groups=4, **more
    ).requires_grad_(False)


def installed(block: nn.Module) -> nn.Module:
    network = nn.Module()
    network.block = block
    install_residuals(network)
    return network.get_submodule("block")


@pytest.mark.parametrize(("out", "time"), [(8, None), (12, None), (8, 6), (12, 6)])
@pytest.mark.parametrize("order", [torch.channels_last, torch.contiguous_format])
def test_it_gives_what_diffusers_gives_and_leaves_its_inputs_alone(
    out: int, time: int | None, order: torch.memory_format
):
    block = a_block(out, time)
    x = noise(2, 8, 5, 6).contiguous(memory_format=order)
    embedding = None if time is None else noise(2, time)
    given = (x.clone(), None if embedding is None else embedding.clone())
    expected = block(x, embedding)
    ours = installed(block)
    assert isinstance(ours, ResidualBlock)
    assert relative(ours(x, embedding), expected) < 1e-6
    assert torch.equal(x, given[0])
    assert embedding is None or (given[1] is not None and torch.equal(embedding, given[1]))


def test_names_of_weights_stay():
    block = a_block(12, 6)
    names = sorted(block.state_dict())
    assert sorted(installed(block).state_dict()) == names


@pytest.mark.parametrize(
    "more", [{"up": True}, {"output_scale_factor": 2.0}, {"time_embedding_norm": "scale_shift"}], ids=str
)
def test_blocks_that_do_more_are_left_alone(more: dict[str, object]):
    assert isinstance(installed(a_block(8, 6, **more)), ResnetBlock2D)
