"""VAEs: pixels <-> latents, whole or in tiles, and the masked pixels of inpainting."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.components import File, Weights
from backend.errors import BadFile, UnknownFamily
from backend.models.adapters import adapt
from backend.models.families import flux, kl_vae, sd3, sd15, sdxl, tiny_vae, wan_vae
from backend.models.families.tiny_vae import TinyVaeLayout
from backend.models.header import Header
from backend.models.hostcopy import Form, HostCopies
from backend.models.latent import LatentFormat
from backend.models.parts import VAE_PREFIXES
from backend.models.residual import install_residuals
from backend.models.tiling import tiled, tiled_frames
from backend.models.upsampler import install_upsamplers
from backend.models.vae_layout import VaeLayout
from backend.models.weights import ModelFile, fill, open_file, open_model
from backend.ops import Tiles
from backend.types import Latent
from backend.values import frozen

# An autoencoder's header (names without prefix) -> its layout, None if it is of another kind.
VAES: tuple[Callable[[Header], VaeLayout | None], ...] = (kl_vae.detect, wan_vae.detect)
# What the latents of each tiny autoencoder are.
TINY = {format.tiny: format for format in (sd15.LATENT, sdxl.LATENT, sd3.LATENT, flux.LATENT)}
FRAMES = 4  # pictures that each frame of a latent but the first becomes
_IMAGES = 12  # numbers per pixel of an image and its copies: parts of a batch, sums and weights of tiles


@frozen(eq=False)
class VaeModel:
    """An autoencoder. nbytes: of its weights; units: what its own latents are, where these are a model's
    units.
    """

    layout: VaeLayout
    module: nn.Module
    nbytes: int
    device: torch.device
    dtype: torch.dtype
    units: LatentFormat | None = None

    def encode(self, pixels: Tensor) -> Tensor:
        """[B, 3, (T,) H, W] in 0..1 -> the mean of its latent, float32 [B, C, (T',) h, w] on the CPU."""
        with torch.no_grad():
            inner = pixels * 2.0 - 1.0
            latent = self.layout.encode(self.module, self._placed(inner)).float().cpu()
            return latent if self.units is None else self.units.from_model(latent)

    def decode(self, latent: Tensor) -> Tensor:
        """[B, C, (T',) h, w] -> float32 [B, 3, (T,) H, W], about 0..1, on the CPU."""
        with torch.no_grad():
            latent = latent if self.units is None else self.units.to_model(latent.float())
            pixels = self.layout.decode(self.module, self._placed(latent)).float().cpu()
            return (pixels + 1.0) / 2.0

    def decoding_bytes(self, shape: Sequence[int], tiles: Tiles | None) -> int:
        """What decoding latents of a shape [B, C, (T',) h, w] takes beside the weights, about.

        tiles: in pixels.
        """
        return self._working_bytes(shape, math.prod(shape[2:]), tiles, self.layout.decoding)

    def encoding_bytes(self, shape: Sequence[int], tiles: Tiles | None) -> int:
        """What encoding pixels of a shape [B, H, W, C] takes beside the weights, about. tiles: in pixels."""
        area = shape[1] * shape[2] // self.layout.downscale**2
        return self._working_bytes(shape, area, tiles, self.layout.encoding)

    def _working_bytes(
        self, shape: Sequence[int], area: int, tiles: Tiles | None, peak: Callable[[int], int]
    ) -> int:
        """One row or tile at a time is in the network; whole images wait beside it, as float32."""
        images = _IMAGES * (shape[0] + 1) * area * self.layout.downscale**2
        most = area if tiles is None else min(area, (tiles.size // self.layout.downscale) ** 2)
        return images * 4 + peak(most) * self.dtype.itemsize

    def _placed(self, value: Tensor) -> Tensor:
        value = value.to(self.device, self.dtype)
        return value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value


def describe_vae(weights: Weights) -> VaeLayout:
    """What kind of autoencoder a file holds, from its header. Raises: UnknownFamily, BadFile."""
    return _opened(weights.files[0])[1]


def load_vae(
    weights: Weights, device: torch.device, dtype: torch.dtype, copies: HostCopies | None = None
) -> VaeModel:
    """The VAE of a checkpoint, or of a file of its own. Raises: UnknownFamily, BadFile."""
    if len(weights.files) == 2:
        return _load_tiny(weights, device, dtype)
    if len(weights.files) != 1:
        paths = ", ".join(f.path for f in weights.files)
        raise BadFile(paths, "a VAE comes from one file", "Give one file that holds the whole VAE.")
    file, layout = _opened(weights.files[0])
    module = layout.build()
    install_residuals(module)
    install_upsamplers(module)
    adapt(module)
    form = Form(
        dtype, channels_last=True
    )  # an eighth faster; a UNet gains a thirtieth, and stays in its file
    nbytes = fill(module, file, layout.convert, device, form, copies.of(weights) if copies else None)
    return VaeModel(layout, module, nbytes, device, dtype)


def _load_tiny(weights: Weights, device: torch.device, dtype: torch.dtype) -> VaeModel:
    """A tiny autoencoder, of an encoder's file and a decoder's. Raises: UnknownFamily, BadFile."""
    files = dict(zip(("encoder", "decoder"), map(open_file, weights.files), strict=True))
    layout = tiny_layout(files["decoder"].header)
    module = layout.build()
    adapt(module)
    nbytes = 0
    for half, file in files.items():
        nbytes += fill_half(module, half, layout, file, device, Form(dtype, channels_last=True))
    return VaeModel(layout, module, nbytes, device, dtype)


def tiny_decoder(path: str, device: torch.device) -> Callable[[Tensor], Tensor]:
    """A tiny autoencoder's decoder: latents [B, C, h, w] in a model's units -> pixels [B, 3, H, W], about
    -1..1.

    Raises: UnknownFamily, BadFile.
    """
    file = open_model(path)
    layout = tiny_layout(file.header)
    module = layout.build()
    adapt(module)
    del module.encoder
    fill_half(module, "decoder", layout, file, device, Form(torch.float32, channels_last=True))

    def decode(latent: Tensor) -> Tensor:
        with torch.no_grad():
            return layout.decode(module, latent.to(device, torch.float32))

    return decode


def tiny_layout(decoder: Header) -> TinyVaeLayout:
    """Raises: UnknownFamily."""
    if (layout := tiny_vae.detect(decoder)) is None:
        remedy = "Use the decoder's file of TAESD, TAESDXL, TAESD3 or TAEF1."
        raise UnknownFamily(decoder.path, "no decoder of a tiny autoencoder in it", remedy)
    return layout


def fill_half(
    module: nn.Module,
    half: str,
    layout: TinyVaeLayout,
    file: ModelFile,
    device: torch.device,
    form: Form,
) -> int:
    """Give a tiny autoencoder's encoder or decoder the weights of its file."""

    def convert(name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
        for target, value in layout.convert(f"{half}.{name}", weight):
            yield target.removeprefix(f"{half}."), value

    return fill(module.get_submodule(half), file, convert, device, form)


def in_units(vae: VaeModel, tiny: str) -> VaeModel:
    """The same, for a tiny autoencoder's name: its latents are those of the model it is for, in its units."""
    return replace(vae, units=TINY[tiny]) if tiny else vae


def encode_pixels(vae: VaeModel, pixels: Tensor, tiles: Tiles | None = None) -> Latent:
    """Pixels [B, H, W, 3 or more] in 0..1 -> their latent, after a centre crop to whole latent pixels.

    tiles: sizes in pixels, used as they are. A tiled encoding is the mean over square, wide and high tiles.
    Raises: ValueError where the image is smaller than one latent pixel, or the tiles can't overlap so.
    """
    rows = _cropped(pixels[..., :3], vae.layout.downscale).movedim(-1, 1)
    if vae.layout.dimensions == 3:  # the images are the frames of one video
        return Latent(vae.encode(rows.movedim(0, 1)[None]))
    if tiles is None:
        return Latent(torch.cat([vae.encode(row[None]) for row in rows]))
    return Latent(_three_ways(rows, vae.encode, tiles, 1 / vae.layout.downscale))


def encode_inpaint(
    vae: VaeModel,
    pixels: Tensor,
    mask: Tensor,
    grow: int,
    tiles: Tiles | None = None,
    soft: bool = False,
) -> Latent:
    """Pixels whose masked part is made grey, encoded; and what is to be noised: the mask, grown.

    Args: pixels [B, H, W, 3] in 0..1; mask [B, h, w] in 0..1, resized to the pixels and rounded;
        grow: each masked pixel becomes a square of so many, 0 or 1 for no change; tiles: as `encode_pixels`;
        soft: the mask is handed back before it is rounded and grown.
    Returns: a latent with a noise mask [B, 1, H, W], of zeros and ones unless it is soft.
    """
    downscale = vae.layout.downscale
    mask = F.interpolate(
        mask.reshape(-1, 1, *mask.shape[-2:]).float(), size=pixels.shape[1:3], mode="bilinear"
    )
    pixels = _cropped(pixels[..., :3], downscale)
    mask = _cropped(mask.movedim(1, -1), downscale).movedim(-1, 1)
    hard = mask.round()
    kept = 1.0 - hard.movedim(1, -1)
    latent = encode_pixels(vae, (pixels - 0.5) * kept + 0.5, tiles)
    if soft:
        return Latent(latent.samples, noise_mask=mask)
    return Latent(latent.samples, noise_mask=_grown(hard, grow) if grow else hard)


def decode_latent(vae: VaeModel, latent: Latent, tiles: Tiles | None = None) -> Tensor:
    """A latent -> pixels, float32 [B, H, W, 3] in 0..1 on the CPU; of one with frames, all frames in a row.

    tiles: sizes in pixels; the overlap is at most a quarter of the size. A tiled decoding is the mean
    over square, wide and high tiles. Raises: ValueError where the latent has other channels than the VAE.
    """
    samples = latent.samples
    frames = vae.layout.dimensions == 3
    if samples.ndim != 2 + vae.layout.dimensions or samples.shape[1] != vae.layout.channels:
        wants = f"[B, {vae.layout.channels}, {'T, ' if frames else ''}h, w]"
        raise ValueError(
            f"the VAE takes latents of shape {wants}, not {list(samples.shape)}: use its model's own"
        )
    if tiles is not None and frames:
        decoded = _framed(samples, vae, tiles)
    elif tiles is None:
        decoded = torch.cat([vae.decode(row[None]) for row in samples])
    else:
        downscale = vae.layout.downscale
        overlap = min(tiles.overlap, tiles.size // 4)
        inner = Tiles(tiles.size // downscale, overlap // downscale)
        decoded = _three_ways(samples, vae.decode, inner, downscale)
    pixels = decoded.clamp(0.0, 1.0).movedim(1, -1)
    return pixels.reshape(-1, *pixels.shape[-3:]).contiguous()


def _framed(samples: Tensor, vae: VaeModel, tiles: Tiles) -> Tensor:
    """A latent with frames, decoded in tiles of space and time."""
    downscale, overlap = vae.layout.downscale, min(tiles.overlap, tiles.size // 4)
    size, shared = tiles.size // downscale, overlap // downscale
    together = max(2, tiles.frames // FRAMES)
    common = tiles.shared // 2 if tiles.frames < tiles.shared * 2 else tiles.shared
    in_time = max(1, min(together // 2, common // FRAMES))
    cut, between = (together, size, size), (in_time, shared, shared)
    return tiled_frames(samples, vae.decode, cut, between, (FRAMES, downscale))


def _opened(source: File) -> tuple[ModelFile, VaeLayout]:
    file = open_file(source)
    for prefix in VAE_PREFIXES:
        part = file.header.under(prefix)
        for detect in VAES:
            if (layout := detect(part)) is not None:
                return file.under(prefix), layout
    raise UnknownFamily(
        source.path, "no VAE of a known kind in it", "Use a checkpoint with a VAE, or a KL VAE's own file."
    )


def _three_ways(samples: Tensor, function: Callable[[Tensor], Tensor], tiles: Tiles, scale: float) -> Tensor:
    """The mean over three cuts, so that no seam is in the same place in all of them."""
    size, overlap = tiles.size, tiles.overlap
    cuts = ((size * 2, size // 2), (size // 2, size * 2), (size, size))
    total = sum(tiled(samples, function, cut, overlap, scale) for cut in cuts)
    return torch.as_tensor(total) / len(cuts)


def _cropped(pixels: Tensor, multiple: int) -> Tensor:
    """[B, H, W, C] cut to multiples, in the middle."""
    height, width = pixels.shape[1:3]
    if height < multiple or width < multiple:
        raise ValueError(f"an image of {width} x {height} is too small: at least {multiple} x {multiple}")
    top, left = height % multiple // 2, width % multiple // 2
    return pixels[:, top : top + height // multiple * multiple, left : left + width // multiple * multiple]


def _grown(mask: Tensor, by: int) -> Tensor:
    """Each masked pixel becomes a square of `by` pixels; [B, 1, H, W] of zeros and ones."""
    kernel = torch.ones(1, 1, by, by, dtype=mask.dtype, device=mask.device)
    grown = F.conv2d(mask, kernel, padding=math.ceil((by - 1) / 2)).clamp(0, 1).round()
    return grown[..., : mask.shape[-2], : mask.shape[-1]]
