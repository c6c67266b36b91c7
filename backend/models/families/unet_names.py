"""Names of the layers of the UNets of SD 1.x and SDXL: the original checkpoints' and diffusers'."""

from collections.abc import Mapping
from functools import cache

from backend.values import frozen

_FIXED = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "middle_block.0": "mid_block.resnets.0",
    "middle_block.1": "mid_block.attentions.0",
    "middle_block.2": "mid_block.resnets.1",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}


@frozen
class Level:
    """One resolution on the way down. blocks: residual blocks; depth: transformer blocks in each, or 0."""

    channels: int
    blocks: int
    depth: int


@cache
def parts(levels: tuple[Level, ...]) -> Mapping[str, str]:
    """Checkpoint name -> diffusers name of each part of a UNet: residual block, transformer, resampler ..."""
    table = dict(_FIXED)
    number = 1
    for level, it in enumerate(levels):
        for block in range(it.blocks):
            table[f"input_blocks.{number}.0"] = f"down_blocks.{level}.resnets.{block}"
            table[f"input_blocks.{number}.1"] = f"down_blocks.{level}.attentions.{block}"
            number += 1
        table[f"input_blocks.{number}.0.op"] = f"down_blocks.{level}.downsamplers.0.conv"
        number += 1
    number = 0
    for level, it in enumerate(reversed(levels)):
        for block in range(it.blocks + 1):
            table[f"output_blocks.{number}.0"] = f"up_blocks.{level}.resnets.{block}"
            table[f"output_blocks.{number}.1"] = f"up_blocks.{level}.attentions.{block}"
            number += 1
        upsampler = f"output_blocks.{number - 1}.{2 if it.depth else 1}.conv"
        table[upsampler] = f"up_blocks.{level}.upsamplers.0.conv"
    return table


def to_diffusers(name: str, table: Mapping[str, str]) -> str | None:
    """A checkpoint's tensor name -> diffusers'; None where no part of the table has it."""
    words = name.split(".")
    for length in (4, 3, 2):
        part, rest = ".".join(words[:length]), ".".join(words[length:])
        if part in table:
            place = table[part]
            return f"{place}.{_renamed(rest, _RESNET) if '.resnets.' in place else rest}"
    return None


def to_original(site: str, table: Mapping[str, str]) -> str | None:
    """A layer's name in diffusers -> its name in a checkpoint."""
    for part, place in table.items():
        if site == place:
            return part
        if site.startswith(place + "."):
            rest = site.removeprefix(place + ".")
            if ".resnets." in place:
                rest = _renamed(rest, {ours: theirs for theirs, ours in _RESNET.items()})
            return f"{part}.{rest}"
    return None


def lora_names(site: str, table: Mapping[str, str]) -> tuple[str, ...]:
    """What LoRA files call a layer: kohya's names, LyCORIS', diffusers' old and new, the checkpoint's."""
    flat = site.replace(".", "_")
    processor = site.replace(".to_", ".processor.to_").removesuffix(".0") if ".to_" in site else site
    names = [f"lora_unet_{flat}", f"lycoris_{flat}", f"unet.{site}", site, f"unet.{processor}", processor]
    if (original := to_original(site, table)) is not None:
        names += [f"lora_unet_{original.replace('.', '_')}", f"diffusion_model.{original}"]
    return tuple(dict.fromkeys(names))


def _renamed(rest: str, names: Mapping[str, str]) -> str:
    for theirs, ours in names.items():
        if rest == theirs or rest.startswith(theirs + "."):
            return ours + rest.removeprefix(theirs)
    return rest
