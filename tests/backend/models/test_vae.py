from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from backend.errors import UnknownFamily
from backend.models.vae import VaeModel, decode_latent, encode_inpaint, encode_pixels, load_vae
from backend.ops import Tiles
from backend.types import Latent
from tests.backend.models.conftest import CPU, relative, weights_of
from tests.parity.reference import Reference


def loaded(path: Path) -> VaeModel:
    return load_vae(weights_of(path, "vae"), CPU, torch.float32)


def pixels(batch: int, height: int, width: int, channels: int = 3) -> Tensor:
    return torch.rand(batch, height, width, channels, generator=torch.Generator().manual_seed(0))


def picture(path: Path) -> Tensor:
    """[1, H, W, 3] in 0..1."""
    return torch.from_numpy(np.asarray(Image.open(path).convert("RGB")).astype(np.float32) / 255)[None]


def test_pixels_become_latents_an_eighth_of_their_size_and_back(tiny: Path):
    vae = loaded(tiny)
    latent = encode_pixels(vae, pixels(2, 32, 48))
    assert latent.samples.shape == (2, 4, 4, 6)
    image = decode_latent(vae, latent)
    assert image.shape == (2, 32, 48, 3)
    assert image.dtype is torch.float32
    assert 0 <= float(image.min()) <= float(image.max()) <= 1


def test_a_batch_equals_its_rows(tiny: Path):
    vae, both = loaded(tiny), pixels(2, 16, 16)
    assert torch.equal(encode_pixels(vae, both).samples[1:], encode_pixels(vae, both[1:]).samples)


def test_what_does_not_fill_a_latent_pixel_is_cut_off_evenly_and_alpha_is_ignored(tiny: Path):
    vae, image = loaded(tiny), pixels(1, 37, 43, 4)
    expected = encode_pixels(vae, image[:, 2:34, 1:41, :3])
    assert torch.equal(encode_pixels(vae, image).samples, expected.samples)


def test_an_image_smaller_than_a_latent_pixel_is_refused(tiny: Path):
    with pytest.raises(ValueError, match="image of 16 x 7 is too small"):
        encode_pixels(loaded(tiny), pixels(1, 7, 16))


def test_tiles_are_blended_into_an_image_of_the_same_size(tiny: Path):
    vae, image = loaded(tiny), pixels(1, 64, 96)
    latent = encode_pixels(vae, image, Tiles(32, 8))
    assert latent.samples.shape == (1, 4, 8, 12)
    whole, tiled = decode_latent(vae, latent), decode_latent(vae, latent, Tiles(64, 64))
    assert tiled.shape == whole.shape
    assert not torch.equal(tiled, whole)


def test_a_latent_of_another_family_is_refused(tiny: Path):
    with pytest.raises(ValueError, match=r"\[B, 4, h, w\], not \[1, 16, 4, 4\]"):
        decode_latent(loaded(tiny), Latent(torch.zeros(1, 16, 4, 4)))


def test_inpainting_greys_out_what_is_masked_and_grows_the_mask(tiny: Path):
    vae, image, mask = loaded(tiny), pixels(1, 32, 32), torch.zeros(1, 32, 32)
    mask[:, 8:16, 8:16] = 0.6
    latent = encode_inpaint(vae, image, mask, 6)
    grey = image.clone()
    grey[:, 8:16, 8:16] = 0.5
    assert relative(latent.samples, encode_pixels(vae, grey).samples) < 1e-6
    assert latent.noise_mask is not None
    assert latent.noise_mask.shape == (1, 1, 32, 32)
    assert latent.noise_mask.sum() == 13 * 13  # 8 + 6 - 1 pixels each way
    assert torch.equal(encode_inpaint(vae, image, mask, 0).noise_mask, mask.round()[:, None])


def test_a_mask_is_resized_and_cut_with_its_image(tiny: Path):
    mask = torch.zeros(1, 10, 10)
    mask[:, :, 5:] = 1
    latent = encode_inpaint(loaded(tiny), pixels(1, 36, 36), mask, 0)
    assert latent.noise_mask is not None
    assert latent.noise_mask.shape == (1, 1, 32, 32)
    assert latent.noise_mask[0, 0, 0].tolist() == [0] * 16 + [1] * 16


def test_a_file_without_a_vae_is_refused(tmp_path: Path):
    save_file({"weight": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(UnknownFamily, match="no VAE"):
        loaded(tmp_path / "a.safetensors")


@pytest.mark.parity
def test_single_images_give_what_comfyui_gives(reference: Reference, model: Callable[[str], Path]):
    facts = load_file(reference.folder / "facts" / "vae_sd15.safetensors")
    vae = loaded(model("sd15"))
    encoded = encode_pixels(vae, picture(reference.folder / "inputs" / "photo.png"))
    assert relative(encoded.samples, facts["photo.latent"]) < 1e-5
    for latent, image in (("photo.latent", "photo.roundtrip"), ("noise7x4.latent", "noise7x4.image")):
        decoded = decode_latent(vae, Latent(facts[latent]))
        assert float((decoded - facts[image]).abs().max()) < 2e-5


@pytest.mark.parity
def test_a_vae_of_its_own_gives_what_comfyui_gives(reference: Reference, model: Callable[[str], Path]):
    golden = reference.folder / "golden"
    latent = Latent(load_file(golden / "vae-standalone.safetensors")["latent"])
    decoded = decode_latent(loaded(model("vae_sd15")), latent)
    assert float((decoded - picture(golden / "vae-standalone.png")).abs().max()) < 1.5 / 255


@pytest.mark.parity
def test_tiled_decoding_gives_what_comfyui_gives(reference: Reference, model: Callable[[str], Path]):
    golden = reference.folder / "golden"
    latent = Latent(load_file(golden / "vae-tiled-decode.safetensors")["latent"])
    decoded = decode_latent(loaded(model("sd15")), latent, Tiles(64, 16))
    assert float((decoded - picture(golden / "vae-tiled-decode.png")).abs().max()) < 1.5 / 255


@pytest.mark.parametrize("old", [False, True])
def test_a_vae_in_diffusers_names_is_the_same_vae(tiny: Path, tmp_path: Path, old: bool):
    vae = load_vae(weights_of(tiny, "vae"), CPU, torch.float32)
    before = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"} if old else {}
    state = {}
    for name, value in AutoencoderKL.state_dict(vae.layout.build().to_empty(device="cpu")).items():
        renamed = name
        for new, former in before.items():
            renamed = renamed.replace(f"attentions.0.{new}.", f"attentions.0.{former}.")
        state[renamed] = torch.zeros_like(value)
    save_file(state, tmp_path / "vae.safetensors")
    again = load_vae(weights_of(tmp_path / "vae.safetensors", "vae"), CPU, torch.float32)
    assert again.layout == vae.layout
