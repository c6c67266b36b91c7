"""Pixels <-> latents."""

from typing import Annotated

from backend.node import Int, node
from backend.ops import DecodeLatent, EncodeInpaint, EncodePixels, Op, Tiles, WithMask, WithPicture
from backend.references import Vae
from backend.types import Conditioning, Image, Latent, Mask

TileOverlap = Annotated[int, Int(0, 4096, step=32)]
Frames = Annotated[int, Int(8, 4096, step=4)]
FrameOverlap = Annotated[int, Int(4, 4096, step=4)]


@node("VAEDecode", category="latent", display_name="VAE Decode")
def vae_decode(*, samples: Latent, vae: Vae) -> Op[Image]:
    """Latents -> pictures."""
    return DecodeLatent(vae, samples)


@node("VAEDecodeTiled", category="_for_testing", display_name="VAE Decode (Tiled)")
def vae_decode_tiled(
    *,
    samples: Latent,
    vae: Vae,
    tile_size: Annotated[int, Int(64, 4096, step=32)] = 512,
    overlap: TileOverlap = 64,
    temporal_size: Frames = 64,
    temporal_overlap: FrameOverlap = 8,
) -> Op[Image]:
    """Latents -> pictures, tile by tile: needs less memory. The temporal sizes are for video VAEs."""
    tiles = Tiles(tile_size, min(overlap, tile_size // 4), temporal_size, temporal_overlap)
    return DecodeLatent(vae, samples, tiles)


@node("VAEEncode", category="latent", display_name="VAE Encode")
def vae_encode(*, pixels: Image, vae: Vae) -> Op[Latent]:
    """Pictures -> latents."""
    return EncodePixels(vae, pixels)


@node("VAEEncodeTiled", category="_for_testing", display_name="VAE Encode (Tiled)")
def vae_encode_tiled(
    *,
    pixels: Image,
    vae: Vae,
    tile_size: Annotated[int, Int(64, 4096, step=64)] = 512,
    overlap: TileOverlap = 64,
    temporal_size: Frames = 64,
    temporal_overlap: FrameOverlap = 8,
) -> Op[Latent]:
    """Pictures -> latents, tile by tile: needs less memory. The temporal sizes are for video VAEs."""
    return EncodePixels(vae, pixels, Tiles(tile_size, overlap))


@node("VAEEncodeForInpaint", category="latent/inpaint", display_name="VAE Encode (for Inpainting)")
def vae_encode_for_inpaint(
    *, pixels: Image, vae: Vae, mask: Mask, grow_mask_by: Annotated[int, Int(0, 64, step=1)] = 6
) -> Op[Latent]:
    """Pictures with the masked part greyed out -> latents that get noise only there."""
    return EncodeInpaint(vae, pixels, mask, grow_mask_by)


@node("InpaintModelConditioning", category="conditioning/inpaint", outputs=("positive", "negative", "latent"))
def inpaint_model_conditioning(
    *,
    positive: Conditioning,
    negative: Conditioning,
    vae: Vae,
    pixels: Image,
    mask: Mask,
    noise_mask: bool = True,
) -> tuple[Op[Conditioning], Op[Conditioning], Op[Latent]]:
    """What an inpainting model is shown of a picture, and the picture as a latent.

    `noise_mask`: only the masked part of the latent gets noise.
    """
    shown = EncodeInpaint(vae, pixels, mask, grow=0, soft=True)
    whole = EncodePixels(vae, pixels)
    latent = WithMask(whole, shown) if noise_mask else whole
    return WithPicture(positive, shown), WithPicture(negative, shown), latent
