"""Where there are no values of ComfyUI's: whole runs equal those of diffusers' own pipelines, on small
random models.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, QwenImageEditPlusPipeline, ZImagePipeline
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as edit_plus
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from backend.guiders import BasicGuider, CfgGuider, Guider, Noise, Sampler
from backend.models.families import qwen_image, z_image
from backend.models.family import Layout
from backend.models.vae import encode_pixels, load_vae
from backend.ops import Denoise
from backend.patches import BlockGuide
from backend.references import Model, PatchNetwork, Vae
from backend.sampling.noise import initial_noise
from backend.settings import Settings
from backend.types import Cond, Latent, OpKey
from backend.worker.bench import Bench
from backend.worker.execute import start
from backend.worker.ladder import Ladder
from backend.worker.residents import Residents
from backend.worker.steploop import Ended, StepLoop
from tests.backend.models.conftest import CPU, relative, weights_of
from tests.backend.models.families.originals import QWEN, Z_IMAGE, loaded, original, state_of
from tests.backend.models.families.test_autoencoders import original_wan
from tests.backend.models.families.test_transformers import tokens_of, whole
from tests.backend.models.test_model_patch import control

SIGMAS = [1.0, 0.8, 0.5, 0.2]
SEED = 7
LIMIT = 2e-4
Steered: TypeAlias = Callable[[Model], Guider]


def text(length: int, seed: int) -> Tensor:
    return torch.randn(1, length, 24, generator=torch.Generator().manual_seed(seed))


def ours(tmp_path: Path, layout: Layout, guider, shape: tuple[int, ...]) -> Tensor:
    """A run of the model with these weights, in the model's units."""
    (samples,) = together(tmp_path, layout, [guider], shape)
    return samples


def together(
    tmp_path: Path, layout: Layout, guiders: Sequence[Steered], shape: tuple[int, ...]
) -> list[Tensor]:
    """Runs of the model side by side, in its units."""
    path = tmp_path / "model.safetensors"
    save_file({n: v.contiguous() for n, v in original(layout, state_of(layout)).items()}, path)
    residents = Residents(CPU, Settings(base_directory=tmp_path, cpu=True), lambda message: None)
    bench = Bench(residents, Ladder(residents.memory, lambda shortage: 0), lambda name: None)
    reports: list[object] = []
    loop = StepLoop(8, reports.append)
    with torch.inference_mode():
        for number, guider in enumerate(guiders):
            op: Denoise = Denoise(
                guider(Model(weights_of(path, "denoiser"))),
                Latent(torch.zeros(shape)),
                Noise(SEED),
                Sampler("euler"),
                torch.tensor([*SIGMAS, 0.0]),
            )
            loop.add(op, start(OpKey(f"run {number}"), op, bench), None)
        while len(loop):
            loop.turn()
    ended = {str(report.key): report for report in reports if isinstance(report, Ended)}
    made = [ended[f"run {number}"].outputs[0].samples for number in range(len(guiders))]
    return [layout.latent.to_model(samples) for samples in made]


@pytest.mark.parametrize("cfg", [1.0, 3.5])
def test_z_image(tmp_path: Path, cfg: float):
    positive, negative = text(9, 1), text(5, 2)
    shape = (1, 16, 12, 16)
    samples = ours(
        tmp_path, Z_IMAGE, lambda m: CfgGuider(m, (Cond(positive),), (Cond(negative),), cfg), shape
    )
    pipeline = ZImagePipeline(
        FlowMatchEulerDiscreteScheduler(),
        None,
        None,
        None,
        loaded(Z_IMAGE, original(Z_IMAGE, state_of(Z_IMAGE))),
    )
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        prompt_embeds=[positive[0]],
        negative_prompt_embeds=[negative[0]],
        guidance_scale=cfg - 1,
        height=96,
        width=128,
        sigmas=SIGMAS,
        num_inference_steps=len(SIGMAS),
        latents=initial_noise(torch.Size(shape), SEED),
        output_type="latent",
    ).images
    assert relative(samples, theirs) < LIMIT
    assert z_image.LATENT.channels == 16


def test_qwen_image_edit_plus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Two pictures to be edited, encoded by the same autoencoder; both are as large as the model is shown
    them.
    """
    torch.manual_seed(0)
    network = AutoencoderKLWan(
        base_dim=8, z_dim=16, dim_mult=[1, 2, 2, 2], num_res_blocks=1, temperal_downsample=[False] * 3
    ).eval()
    save_file(original_wan(network, 1), tmp_path / "vae.safetensors")
    vae = load_vae(weights_of(tmp_path / "vae.safetensors", "vae"), CPU, torch.float32)
    monkeypatch.setattr(edit_plus, "VAE_IMAGE_SIZE", 64 * 64)
    drawn = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    references = [encode_pixels(vae, torch.from_numpy(p)[None].float() / 255).samples for p in drawn]
    prompt, shape = text(11, 1), (1, 16, 1, 12, 16)
    cond = Cond(prompt, options={"reference_latents": tuple(references)})
    samples = ours(tmp_path, QWEN, lambda m: BasicGuider(m, (cond,)), shape)
    pipeline = QwenImageEditPlusPipeline(
        FlowMatchEulerDiscreteScheduler(), network, None, None, None, whole(QWEN)
    )
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        image=[Image.fromarray(p) for p in drawn],
        prompt_embeds=prompt,
        true_cfg_scale=1.0,
        height=96,
        width=128,
        sigmas=SIGMAS,
        num_inference_steps=len(SIGMAS),
        latents=tokens_of(initial_noise(torch.Size(shape), SEED)[:, :, 0]),
        output_type="latent",
    ).images
    assert relative(tokens_of(samples[:, :, 0]), theirs) < LIMIT
    assert qwen_image.LATENT.dimensions == 3


def test_a_guided_run_of_qwen_image_and_a_plain_one_share_passes_and_are_as_alone(tmp_path: Path):
    torch.manual_seed(0)
    coder = AutoencoderKLWan(
        base_dim=8, z_dim=16, dim_mult=[1, 2, 2, 2], num_res_blocks=1, temperal_downsample=[False] * 3
    ).eval()
    save_file(original_wan(coder, 1), tmp_path / "vae.safetensors")
    save_file(control(width=QWEN.width), tmp_path / "patch.safetensors")
    net = PatchNetwork(weights_of(tmp_path / "patch.safetensors", "model_patch"))
    vae = Vae(weights_of(tmp_path / "vae.safetensors", "vae"))
    image, mask = torch.rand(1, 90, 128, 3), torch.rand(1, 45, 64)

    def guided(strength: float) -> Steered:
        patch = BlockGuide(net, vae, image, strength, mask)
        return lambda m: BasicGuider(m.with_patch(patch), (Cond(text(9, 1)),))

    guiders = [guided(0.8), lambda m: BasicGuider(m, (Cond(text(9, 2)),)), guided(0.0)]
    shape = (1, 16, 1, 12, 16)
    mixed = together(tmp_path, QWEN, guiders, shape)
    for samples, guider in zip(mixed, guiders, strict=True):
        assert relative(samples, ours(tmp_path, QWEN, guider, shape)) < 1e-5
    unguided = ours(tmp_path, QWEN, lambda m: BasicGuider(m, (Cond(text(9, 1)),)), shape)
    assert relative(mixed[2], unguided) < 1e-5
    assert relative(mixed[0], unguided) > 1e-2
