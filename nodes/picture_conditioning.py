"""Conditionings of models beside the common ones: shown a picture, in a part of a video, without a text."""

from importlib.resources import files
from typing import Annotated

import numpy as np

from backend.deferred import torch
from backend.node import Float, node
from backend.ops import EmptyLike, EncodePixels, Op, WithOptions
from backend.references import Vae
from backend.resize import resize
from backend.types import Cond, Conditioning, Image, Latent
from nodes.conditioning import with_options


@node(
    "SD_4XUpscale_Conditioning",
    category="conditioning/upscale_diffusion",
    module="comfy_extras.nodes_sdupscale",
    outputs=("positive", "negative", "latent"),
)
def sd_4x_upscale_conditioning(
    *,
    images: Image,
    positive: Conditioning,
    negative: Conditioning,
    scale_ratio: Annotated[float, Float(0.0, 10.0, step=0.01)] = 4.0,
    noise_augmentation: Annotated[float, Float(0.0, 1.0, step=0.001)] = 0.0,
) -> tuple[Conditioning, Conditioning, Latent]:
    """What the 4x upscaling model is shown, at a quarter of the size that is to come, and a latent for it."""
    width, height = (max(1, round(side * scale_ratio)) // 4 for side in (images.shape[2], images.shape[1]))
    shown = resize(images.movedim(-1, 1) * 2.0 - 1.0, width, height, "bilinear", "center")
    options = {"concat_image": shown, "noise_augmentation": noise_augmentation}
    latent = Latent(torch.zeros([images.shape[0], 4, height, width]))
    return with_options(positive, options), with_options(negative, options), latent


@node(
    "InstructPixToPixConditioning",
    category="conditioning/instructpix2pix",
    module="comfy_extras.nodes_ip2p",
    outputs=("positive", "negative", "latent"),
)
def instruct_pix_to_pix_conditioning(
    *, positive: Conditioning, negative: Conditioning, vae: Vae, pixels: Image
) -> tuple[Op[Conditioning], Op[Conditioning], Op[Latent]]:
    """The picture that an InstructPix2Pix model is to change, and an empty latent of its size."""
    picture = EncodePixels(vae, pixels)
    options = {"concat_latent_image": picture}
    return WithOptions(positive, options), WithOptions(negative, options), EmptyLike(picture)


@node(
    "LotusConditioning",
    category="conditioning/lotus",
    module="comfy_extras.nodes_lotus",
    outputs=("conditioning",),
)
def lotus_conditioning() -> Conditioning:
    """The encoding of the empty text that Lotus models were trained with."""
    data = files("nodes").joinpath("data/lotus.f16").read_bytes()
    tokens = np.frombuffer(data, "<f2").astype(np.float32).reshape(1, 2, 1024)
    return (Cond(torch.from_numpy(tokens)),)


Fraction = Annotated[float, Float(0, 1.0, step=0.01)]


@node("ConditioningSetAreaPercentageVideo", category="conditioning", module="comfy_extras.nodes_video_model")
def conditioning_set_area_percentage_video(
    *,
    conditioning: Conditioning,
    width: Fraction = 1.0,
    height: Fraction = 1.0,
    temporal: Fraction = 1.0,
    x: Fraction = 0,
    y: Fraction = 0,
    z: Fraction = 0,
    strength: Annotated[float, Float(0.0, 10.0, step=0.01)] = 1.0,
) -> Conditioning:
    """Apply within a rectangle and a stretch of time, given as parts of the video."""
    area = ("percentage", temporal, height, width, z, y, x)
    return with_options(conditioning, {"area": area, "strength": strength, "set_area_to_bounds": False})
