"""Make a small checkpoint of random weights in SD1.5's single-file layout, so that a first Run has a model.

    python scripts/demo.py MODELS_FOLDER/checkpoints [--unless-any] [--name NAME] [--seed N]

It is no trained model: its images are colours and shapes without meaning. It shows that the way from the
browser through the engine to the pixels works, on any machine, without a download. Widths and depths are
reduced; names and structure are those of every SD1.5 file.
"""

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

NAME = "tessera-demo.safetensors"
Shapes = Iterator[tuple[str, tuple[int, ...]]]


@dataclass(frozen=True, slots=True)
class Size:
    """How large the networks are. unet: channels of the first level, a multiple of 32 (group norms)."""

    unet: int = 64
    levels: tuple[int, ...] = (1, 2, 2)  # channels of each level, in multiples of the first
    attends: tuple[bool, ...] = (False, True, True)  # not where a latent is largest: a CPU would crawl
    text_width: int = 768  # what SD1.5's cross-attention reads
    text_layers: int = 2
    vae: int = 32
    vae_levels: tuple[int, ...] = (1, 2, 4, 4)  # four levels: the latent is 8 times smaller


def norm(name: str, width: int) -> Shapes:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def linear(name: str, into: int, out: int, bias: bool = True) -> Shapes:
    yield f"{name}.weight", (out, into)
    if bias:
        yield f"{name}.bias", (out,)


def conv(name: str, into: int, out: int, kernel: int) -> Shapes:
    yield f"{name}.weight", (out, into, kernel, kernel)
    yield f"{name}.bias", (out,)


def unet_block(name: str, into: int, out: int, time: int) -> Shapes:
    yield from norm(f"{name}.in_layers.0", into)
    yield from conv(f"{name}.in_layers.2", into, out, 3)
    yield from linear(f"{name}.emb_layers.1", time, out)
    yield from norm(f"{name}.out_layers.0", out)
    yield from conv(f"{name}.out_layers.3", out, out, 3)
    if into != out:
        yield from conv(f"{name}.skip_connection", into, out, 1)


def attention(name: str, width: int, context: int) -> Shapes:
    yield from norm(f"{name}.norm", width)
    yield from conv(f"{name}.proj_in", width, width, 1)
    block = f"{name}.transformer_blocks.0"
    for attn, source in (("attn1", width), ("attn2", context)):
        yield from linear(f"{block}.{attn}.to_q", width, width, bias=False)
        yield from linear(f"{block}.{attn}.to_k", source, width, bias=False)
        yield from linear(f"{block}.{attn}.to_v", source, width, bias=False)
        yield from linear(f"{block}.{attn}.to_out.0", width, width)
    yield from linear(f"{block}.ff.net.0.proj", width, 8 * width)  # gated: two halves of 4 x width
    yield from linear(f"{block}.ff.net.2", 4 * width, width)
    for i in (1, 2, 3):
        yield from norm(f"{block}.norm{i}", width)
    yield from conv(f"{name}.proj_out", width, width, 1)


def unet(size: Size) -> Shapes:
    """One residual block a level, attention where `size` says and in the middle."""
    root, time = "model.diffusion_model", 4 * size.unet
    widths = [size.unet * m for m in size.levels]
    yield from linear(f"{root}.time_embed.0", size.unet, time)
    yield from linear(f"{root}.time_embed.2", time, time)
    yield from conv(f"{root}.input_blocks.0.0", 4, widths[0], 3)
    skips, now, n = [widths[0]], widths[0], 1
    for level, width in enumerate(widths):
        yield from unet_block(f"{root}.input_blocks.{n}.0", now, width, time)
        if size.attends[level]:
            yield from attention(f"{root}.input_blocks.{n}.1", width, size.text_width)
        now, n = width, n + 1
        skips.append(now)
        if level < len(widths) - 1:
            yield from conv(f"{root}.input_blocks.{n}.0.op", now, now, 3)
            skips.append(now)
            n += 1
    yield from unet_block(f"{root}.middle_block.0", now, now, time)
    yield from attention(f"{root}.middle_block.1", now, size.text_width)
    yield from unet_block(f"{root}.middle_block.2", now, now, time)
    yield from unet_output(root, widths, skips, size, time)


def unet_output(root: str, widths: list[int], skips: list[int], size: Size, time: int) -> Shapes:
    """The way up: two blocks a level, each fed with what the way down left at its height."""
    now, n = widths[-1], 0
    for level, width in reversed(list(enumerate(widths))):
        for last in (False, True):
            yield from unet_block(f"{root}.output_blocks.{n}.0", now + skips.pop(), width, time)
            now, place = width, 1
            if size.attends[level]:
                yield from attention(f"{root}.output_blocks.{n}.1", width, size.text_width)
                place = 2
            if last and level > 0:
                yield from conv(f"{root}.output_blocks.{n}.{place}.conv", width, width, 3)
            n += 1
    yield from norm(f"{root}.out.0", now)
    yield from conv(f"{root}.out.2", now, 4, 3)


def text_encoder(size: Size) -> Shapes:
    root, width = "cond_stage_model.transformer.text_model", size.text_width
    yield f"{root}.embeddings.token_embedding.weight", (49408, width)
    yield f"{root}.embeddings.position_embedding.weight", (77, width)
    for i in range(size.text_layers):
        layer = f"{root}.encoder.layers.{i}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from linear(f"{layer}.self_attn.{part}", width, width)
        yield from linear(f"{layer}.mlp.fc1", width, 4 * width)
        yield from linear(f"{layer}.mlp.fc2", 4 * width, width)
        yield from norm(f"{layer}.layer_norm1", width)
        yield from norm(f"{layer}.layer_norm2", width)
    yield from norm(f"{root}.final_layer_norm", width)


def vae_block(name: str, into: int, out: int) -> Shapes:
    yield from norm(f"{name}.norm1", into)
    yield from conv(f"{name}.conv1", into, out, 3)
    yield from norm(f"{name}.norm2", out)
    yield from conv(f"{name}.conv2", out, out, 3)
    if into != out:
        yield from conv(f"{name}.nin_shortcut", into, out, 1)


def vae_middle(name: str, width: int) -> Shapes:
    yield from vae_block(f"{name}.block_1", width, width)
    yield from norm(f"{name}.attn_1.norm", width)
    for part in ("q", "k", "v", "proj_out"):
        yield from conv(f"{name}.attn_1.{part}", width, width, 1)
    yield from vae_block(f"{name}.block_2", width, width)


def vae(size: Size) -> Shapes:
    root, widths = "first_stage_model", [size.vae * m for m in size.vae_levels]
    yield from conv(f"{root}.encoder.conv_in", 3, widths[0], 3)
    now = widths[0]
    for level, width in enumerate(widths):
        for i in range(2):
            yield from vae_block(f"{root}.encoder.down.{level}.block.{i}", now, width)
            now = width
        if level < len(widths) - 1:
            yield from conv(f"{root}.encoder.down.{level}.downsample.conv", now, now, 3)
    yield from vae_middle(f"{root}.encoder.mid", now)
    yield from norm(f"{root}.encoder.norm_out", now)
    yield from conv(f"{root}.encoder.conv_out", now, 8, 3)
    yield from conv(f"{root}.quant_conv", 8, 8, 1)
    yield from conv(f"{root}.post_quant_conv", 4, 4, 1)
    yield from conv(f"{root}.decoder.conv_in", 4, now, 3)
    yield from vae_middle(f"{root}.decoder.mid", now)
    for level, width in reversed(list(enumerate(widths))):
        for i in range(3):
            yield from vae_block(f"{root}.decoder.up.{level}.block.{i}", now, width)
            now = width
        if level > 0:
            yield from conv(f"{root}.decoder.up.{level}.upsample.conv", now, now, 3)
    yield from norm(f"{root}.decoder.norm_out", now)
    yield from conv(f"{root}.decoder.conv_out", now, 3, 3)


# The last matrix of a residual branch is kept smaller, so that depth does not blow the values up.
RESIDUAL = ("to_out.0.", "proj_out.", "ff.net.2.", "out_layers.3.", "conv2.", "fc2.", "out_proj.")


# A soft 3 x 3 kernel of unit energy: what a decoder of such kernels paints is shapes, not dust.
SOFT = np.outer((1, 2, 1), (1, 2, 1)).astype(np.float32) / 6


def values(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float16]:
    """Weights that keep a signal's variance: norms near 1, matrices scaled by their fan-in."""
    noise = rng.standard_normal(shape, dtype=np.float32)
    if len(shape) == 1:
        around = 0.05 * noise if name.endswith("bias") else 1 + 0.1 * noise
        return around.astype(np.float16)
    if "embedding" in name:
        return (0.5 * noise).astype(np.float16)
    if len(shape) == 4 and shape[2:] == SOFT.shape and name.startswith("first_stage_model.decoder."):
        noise = (noise[:, :, :1, :1] * SOFT * (1.5 if "conv_out" in name else 3)).astype(np.float32)
    gain = 0.5 if any(mark in name for mark in RESIDUAL) else 1.0
    return (gain / math.sqrt(math.prod(shape[1:])) * noise).astype(np.float16)


def write_checkpoint(
    path: Path, seed: int = 0, size: Size | None = None, unet_seed: int | None = None
) -> None:
    """Write a checkpoint of fp16 weights, equal for equal arguments.

    unet_seed: another denoiser beside the same text encoder and VAE.
    """
    size = size or Size()
    tensors: dict[str, NDArray[np.float16] | NDArray[np.int64]] = {}
    for part, part_seed in (
        (unet, seed if unet_seed is None else unet_seed),
        (text_encoder, seed),
        (vae, seed),
    ):
        rng = np.random.default_rng(part_seed)
        tensors |= {name: values(name, shape, rng) for name, shape in part(size)}
    positions = "cond_stage_model.transformer.text_model.embeddings.position_ids"
    tensors[positions] = np.arange(77, dtype=np.int64)[None]
    path.parent.mkdir(parents=True, exist_ok=True)
    part_file = path.with_name(path.name + ".part")  # a run that is broken off leaves no half checkpoint
    save_file(tensors, part_file, metadata={"format": "pt"})
    part_file.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--name", default=NAME)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--unless-any", action="store_true", help="do nothing where the folder has a checkpoint"
    )
    asked = parser.parse_args()
    found = (
        [p for p in asked.folder.rglob("*") if p.suffix in (".safetensors", ".ckpt", ".pt")]
        if asked.unless_any
        else []
    )
    if found:
        return
    path = asked.folder / asked.name
    write_checkpoint(path, asked.seed)
    print(f"made {path} ({path.stat().st_size >> 20} MB): random weights, for a first look only", flush=True)


if __name__ == "__main__":
    main()
