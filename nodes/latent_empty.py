"""Empty latents in the shapes that other families work in; sizes in pixels and frames."""

from dataclasses import replace
from typing import Annotated

from backend.deferred import torch
from backend.node import Int, node
from backend.types import Latent
from nodes.conditioning import MAX_RESOLUTION
from nodes.latent import BatchSize

VIDEO = "latent/video"
SixteenthSide = Annotated[int, Int(16, MAX_RESOLUTION, step=16)]
CoarseSide = Annotated[int, Int(64, MAX_RESOLUTION, step=32)]
CascadeSide = Annotated[int, Int(256, MAX_RESOLUTION, step=8)]


def empty(*shape: int) -> Latent:
    return Latent(torch.zeros(shape))


def frames(length: int, step: int) -> int:
    """Latent frames of a video: the first stands alone, each further one for `step` of its frames."""
    return (length - 1) // step + 1


@node("EmptyHunyuanLatentVideo", category=VIDEO, module="comfy_extras.nodes_hunyuan")
def empty_hunyuan_latent_video(
    *,
    width: SixteenthSide = 848,
    height: SixteenthSide = 480,
    length: Annotated[int, Int(1, MAX_RESOLUTION, step=4)] = 25,
    batch_size: BatchSize = 1,
) -> Latent:
    """Of Hunyuan Video and Wan: 16 channels, 8 pixels and 4 frames to one."""
    return empty(batch_size, 16, frames(length, 4), height // 8, width // 8)


@node("EmptyHunyuanImageLatent", category="latent", module="comfy_extras.nodes_hunyuan")
def empty_hunyuan_image_latent(
    *, width: CoarseSide = 2048, height: CoarseSide = 2048, batch_size: BatchSize = 1
) -> Latent:
    """Of Hunyuan Image: 64 channels, 32 pixels to one."""
    return empty(batch_size, 64, height // 32, width // 32)


@node("EmptyMochiLatentVideo", category=VIDEO, module="comfy_extras.nodes_mochi")
def empty_mochi_latent_video(
    *,
    width: SixteenthSide = 848,
    height: SixteenthSide = 480,
    length: Annotated[int, Int(7, MAX_RESOLUTION, step=6)] = 25,
    batch_size: BatchSize = 1,
) -> Latent:
    """Of Mochi: 12 channels, 8 pixels and 6 frames to one."""
    return empty(batch_size, 12, frames(length, 6), height // 8, width // 8)


@node("EmptyLTXVLatentVideo", category="latent/video/ltxv", module="comfy_extras.nodes_lt")
def empty_ltxv_latent_video(
    *,
    width: CoarseSide = 768,
    height: CoarseSide = 512,
    length: Annotated[int, Int(1, MAX_RESOLUTION, step=8)] = 97,
    batch_size: BatchSize = 1,
) -> Latent:
    """Of LTX-Video: 128 channels, 32 pixels and 8 frames to one."""
    return empty(batch_size, 128, frames(length, 8), height // 32, width // 32)


@node("EmptyCosmosLatentVideo", category=VIDEO, module="comfy_extras.nodes_cosmos")
def empty_cosmos_latent_video(
    *,
    width: SixteenthSide = 1280,
    height: SixteenthSide = 704,
    length: Annotated[int, Int(1, MAX_RESOLUTION, step=8)] = 121,
    batch_size: BatchSize = 1,
) -> Latent:
    """Of Cosmos: 16 channels, 8 pixels and 8 frames to one."""
    return empty(batch_size, 16, frames(length, 8), height // 8, width // 8)


@node(
    "EmptyChromaRadianceLatentImage",
    category="latent/chroma_radiance",
    module="comfy_extras.nodes_chroma_radiance",
)
def empty_chroma_radiance_latent_image(
    *, width: SixteenthSide = 1024, height: SixteenthSide = 1024, batch_size: BatchSize = 1
) -> Latent:
    """Of models that work on pixels: 3 channels, full size."""
    return empty(batch_size, 3, height, width)


@node("EmptyLatentHunyuan3Dv2", category="latent/3d", module="comfy_extras.nodes_hunyuan3d")
def empty_latent_hunyuan_3d_v2(
    *, resolution: Annotated[int, Int(1, 8192)] = 3072, batch_size: BatchSize = 1
) -> Latent:
    """Of Hunyuan 3D: 64 channels, so many places."""
    return replace(empty(batch_size, 64, resolution), extra={"type": "hunyuan3dv2"})


@node(
    "StableCascade_EmptyLatentImage",
    category="latent/stable_cascade",
    module="comfy_extras.nodes_stable_cascade",
    outputs=("stage_c", "stage_b"),
)
def stable_cascade_empty_latent_image(
    *,
    width: CascadeSide = 1024,
    height: CascadeSide = 1024,
    compression: Annotated[int, Int(4, 128, step=1)] = 42,
    batch_size: BatchSize = 1,
) -> tuple[Latent, Latent]:
    """Of both stages of Stable Cascade: 16 channels and `compression` pixels to one; 4 and 4."""
    coarse = empty(batch_size, 16, height // compression, width // compression)
    return coarse, empty(batch_size, 4, height // 4, width // 4)


@node("TrimVideoLatent", category=VIDEO, module="comfy_extras.nodes_wan")
def trim_video_latent(*, samples: Latent, trim_amount: Annotated[int, Int(0, 99999)] = 0) -> Latent:
    """A video without its first latent frames."""
    return replace(samples, samples=samples.samples[:, :, trim_amount:])
