"""Hints and styles of a model's patches, made once for a run."""

from types import SimpleNamespace

import pytest
import torch

from backend.components import Weights
from backend.errors import UnsupportedOption
from backend.models.families.wan import LATENT
from backend.patches import BlockGuide, FreeU, StyleReference
from backend.references import PatchNetwork, Vae
from backend.sampling.region import Box, Region
from backend.types import ClipVisionOutput
from backend.worker.within import within

NET = PatchNetwork(Weights("model_patch", "p", ()))
VAE = Vae(Weights("vae", "v", ()))
LATENTS = torch.zeros(1, 16, 1, 6, 4)


class Network:
    """Hands on what it is given."""

    def __init__(self, shown=16):
        self.shown = shown

    def hint(self, latent):
        return latent

    def style(self, low, mid, high):
        return torch.cat([high, mid, low], dim=1)


def encode(vae, pixels, channels=16, frames=1):
    assert vae == VAE
    small = pixels[:, ::8, ::8, 0]
    return small[:1, None, None].expand(1, channels, frames, *small.shape[1:])


def made(*patches, sides=None, shown=16, encode=encode):
    networks = SimpleNamespace(patch=lambda net: Network(shown), encode=encode)
    return within(patches, sides or {}, LATENTS, networks)


def test_a_hint_is_the_picture_encoded_in_the_latents_size_and_the_models_units():
    result = made(FreeU(1, 1, 1, 1, 2), BlockGuide(NET, VAE, torch.full((1, 50, 30, 4), 0.5), 0.7))
    (guide,) = result.guides_of(LATENTS)
    wanted = LATENT.to_model(torch.full((1, 16, 1, 6, 4), 0.5))[:, :, 0]
    assert torch.allclose(guide.hint, wanted)
    assert (guide.strength, result.prefix) == (0.7, None)


def test_a_condition_with_an_area_has_a_hint_of_that_size():
    region = Region(box=Box((1, 4, 2), (0, 0, 0)))
    sides = {"positive": (SimpleNamespace(region=region), SimpleNamespace(region=Region()))}
    result = made(BlockGuide(NET, VAE, torch.rand(1, 48, 32, 3), 1.0), sides=sides)
    (guide,) = result.guides_of(torch.zeros(1, 16, 1, 4, 2))
    assert guide.hint.shape == (1, 16, 4, 2)
    assert set(result.guides) == {(6, 4), (4, 2)}


def test_a_network_that_is_told_sees_what_is_to_be_kept():
    image, mask = torch.rand(1, 48, 32, 3), torch.zeros(1, 48, 32)
    mask[:, :, 16:] = 1.0
    (told,) = made(BlockGuide(NET, VAE, image, 1.0, mask), shown=17).guides_of(LATENTS)
    assert told.hint[0, 16, 0].tolist() == [1.0, 1.0, 0.0, 0.0]
    (all_kept,) = made(BlockGuide(NET, VAE, image, 1.0), shown=17).guides_of(LATENTS)
    assert all_kept.hint[0, 16].unique().tolist() == [1.0]


def test_a_run_without_patches_has_nothing_within():
    result = made(FreeU(1, 1, 1, 1, 2))
    assert (result.guides_of(LATENTS), result.prefix) == ((), None)


@pytest.mark.parametrize(
    ("given", "problem"), [({"channels": 4}, "Qwen-Image's VAE"), ({"frames": 2}, "one picture")]
)
def test_latents_that_are_not_one_picture_of_qwens_are_refused(given, problem):
    patch = BlockGuide(NET, VAE, torch.rand(9, 48, 32, 3), 1.0)
    with pytest.raises(UnsupportedOption, match=problem):
        made(patch, encode=lambda vae, pixels: encode(vae, pixels, **given))


def seen(layers, value=0.0):
    states = torch.arange(layers).reshape(1, layers, 1, 1).float() + value
    return ClipVisionOutput(states[:, -1], states[:, -1], states[:, -2], None, states)


def test_styles_are_of_the_layers_that_count_and_the_last_stands_first():
    one, two = StyleReference(NET, seen(27)), StyleReference(NET, seen(27, 100.0))
    prefix = made(one, two).prefix
    assert prefix is not None
    assert prefix.tokens.flatten().tolist() == [125, 116, 107, 25, 16, 7]


def test_an_encoder_without_the_states_of_all_layers_is_refused():
    last = torch.zeros(1, 4, 8)
    for output in (ClipVisionOutput(last, last, last), seen(12)):
        with pytest.raises(UnsupportedOption, match="other than SigLIP"):
            made(StyleReference(NET, output))
