from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderTiny
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from safetensors.torch import load_file, save_file

from backend.components import Weights
from backend.errors import UnknownFamily
from backend.models.families import flux, wan_vae
from backend.models.header import Header, TensorInfo
from backend.models.vae import decode_latent, encode_pixels, in_units, load_vae, tiny_decoder
from backend.types import Latent
from tests.backend.models.conftest import CPU, file_of, relative, weights_of


@pytest.fixture(scope="module")
def tiny_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[AutoencoderTiny, Path, Path]:
    """A tiny autoencoder of Flux's latents, and its two files."""
    torch.manual_seed(0)
    network = AutoencoderTiny(latent_channels=16).eval()
    folder = tmp_path_factory.mktemp("tiny")
    encoder, decoder = folder / "taef1_encoder.safetensors", folder / "taef1_decoder.safetensors"
    halves = {path: {} for path in (encoder, decoder)}
    for name, value in network.state_dict().items():
        half, _, number, rest = name.split(".", 3)
        path, shift = (encoder, 0) if half == "encoder" else (decoder, 1)
        halves[path][f"{int(number) + shift}.{rest}"] = value.clone()
    for path, tensors in halves.items():
        save_file(tensors, path)
    return network, encoder, decoder


def test_a_tiny_autoencoder_takes_latents_in_the_units_of_the_vae_it_stands_for(tiny_files):
    network, encoder, decoder = tiny_files
    vae = load_vae(Weights("vae", "tiny", (file_of(encoder), file_of(decoder))), CPU, torch.float32)
    vae = in_units(vae, "taef1")
    pixels = torch.rand(1, 32, 48, 3)
    with torch.no_grad():
        inner = network.encode(pixels.movedim(-1, 1) * 2 - 1).latents
        shown = network.decode(inner).sample
    latent = encode_pixels(vae, pixels)
    assert relative(latent.samples, flux.LATENT.from_model(inner)) < 1e-5
    decoded = decode_latent(vae, Latent(flux.LATENT.from_model(inner)))
    assert relative(decoded, ((shown + 1) / 2).clamp(0, 1).movedim(1, -1)) < 1e-5


def test_previews_use_the_decoder_alone(tiny_files):
    network, _, decoder = tiny_files
    latent = torch.randn(1, 16, 4, 6)
    with torch.no_grad():
        assert relative(tiny_decoder(str(decoder), CPU)(latent), network.decode(latent).sample) < 1e-5


def test_another_file_in_the_place_of_a_decoder_is_refused(tiny_files):
    _, encoder, _ = tiny_files
    with pytest.raises(UnknownFamily, match="no decoder of a tiny autoencoder"):
        tiny_decoder(str(encoder), CPU)


def original_wan(network: AutoencoderKLWan, blocks: int) -> dict[str, torch.Tensor]:
    """Its weights by the original names."""
    config = network.config
    layout = wan_vae.WanVaeLayout(config.z_dim, config.base_dim, (1, 2), blocks, (True,))
    state = network.state_dict()
    parts = {"norm1": "residual.0", "conv1": "residual.2", "norm2": "residual.3", "conv2": "residual.6"}
    found = {}
    names = ["conv1", "conv2"]
    names += [f"{half}.{end}" for half in ("encoder", "decoder") for end in ("conv1", "head.0", "head.2")]
    middles = [f"middle.{n}.{part}" for n in (0, 2) for part in parts.values()]
    middles += [f"middle.1.{part}" for part in ("norm", "to_qkv", "proj")]
    inner = (*parts.values(), "shortcut", "resample.1", "time_conv")
    for half, way in (("encoder", "downsamples"), ("decoder", "upsamples")):
        names += [f"{half}.{middle}" for middle in middles]
        names += [f"{half}.{way}.{n}.{part}" for n in range(15) for part in inner]
    for name in names:
        for end in ("weight", "bias", "gamma"):
            ours = f"{layout._renamed(name)}.{end}"
            if ours in state:
                found[f"{name}.{end}"] = state[ours].clone()
    assert len(found) == len(state)
    return found


def test_wans_autoencoder_is_read_from_its_original_names(tmp_path: Path):
    torch.manual_seed(0)
    network = AutoencoderKLWan(
        base_dim=8, z_dim=4, dim_mult=[1, 2], num_res_blocks=1, temperal_downsample=[True]
    ).eval()
    save_file(original_wan(network, 1), tmp_path / "wan.safetensors")
    vae = load_vae(weights_of(tmp_path / "wan.safetensors", "vae"), CPU, torch.float32)
    assert vae.layout == wan_vae.WanVaeLayout(4, 8, (1, 2), 1, (True,))
    pixels = torch.rand(5, 16, 24, 3)
    with torch.no_grad():
        wanted = network.encode(pixels.movedim(-1, 0)[None] * 2 - 1).latent_dist.mode()
        shown = network.decode(wanted).sample
    latent = encode_pixels(vae, pixels)
    assert relative(latent.samples, wanted) < 1e-5
    assert relative(decode_latent(vae, latent), ((shown + 1) / 2).clamp(0, 1)[0].movedim(0, -1)) < 1e-5
    with torch.no_grad():  # not clipped, so that tiles are blended as they are
        bright, clipped = vae.layout.decode(vae.module, wanted * 1e4), network.decode(wanted * 1e4).sample
    assert bright.abs().max() > 1.0
    assert relative(bright.clamp(-1.0, 1.0), clipped) < 1e-5


def test_wans_second_autoencoder_is_not_taken_for_the_first():
    shapes = {
        "encoder.conv1.weight": (160, 12, 3, 3, 3),
        "decoder.conv1.weight": (1024, 48, 3, 3, 3),
        "conv2.weight": (48, 48, 1, 1, 1),
        "decoder.middle.0.residual.0.gamma": (1024, 1, 1, 1),
    }
    header = Header("a", {name: TensorInfo("F16", shape) for name, shape in shapes.items()})
    assert wan_vae.detect(header) is None


@pytest.mark.parity
@pytest.mark.parametrize("name", ["flux", "wan"])
def test_the_reference_autoencoders_give_comfyuis_values(name: str, reference, model):
    facts = load_file(reference.folder / "facts" / f"vae_{name}.safetensors")
    vae = load_vae(weights_of(model(f"vae_{name}"), "vae"), CPU, torch.float32)
    decoded = decode_latent(vae, Latent(facts["noise7.latent"]))
    assert relative(decoded, facts["noise7.image"].reshape(decoded.shape)) < 1e-4
