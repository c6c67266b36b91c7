"""Names of UNet layers, checkpoints' against diffusers', in the shape of ComfyUI's tables."""

from collections.abc import Iterator, Mapping
from typing import Any

_ENDS = ("weight", "bias")


def _with_ends(names: Mapping[str, str]) -> dict[str, str]:
    return {f"{theirs}.{end}": f"{ours}.{end}" for theirs, ours in names.items() for end in _ENDS}


UNET_MAP_ATTENTIONS = {f"{part}.{end}" for part in ("proj_in", "proj_out", "norm") for end in _ENDS}
TRANSFORMER_BLOCKS = {
    *(f"norm{n}.{end}" for n in (1, 2, 3) for end in _ENDS),
    *(f"attn{n}.to_{part}.weight" for n in (1, 2) for part in "qkv"),
    *(f"attn{n}.to_out.0.{end}" for n in (1, 2) for end in _ENDS),
    *(f"ff.net.{part}.{end}" for part in ("0.proj", "2") for end in _ENDS),
}
UNET_MAP_RESNET = _with_ends(
    {
        "in_layers.2": "conv1",
        "emb_layers.1": "time_emb_proj",
        "out_layers.3": "conv2",
        "skip_connection": "conv_shortcut",
        "in_layers.0": "norm1",
        "out_layers.0": "norm2",
    }
)
UNET_MAP_BASIC = set(
    _with_ends(
        {
            "input_blocks.0.0": "conv_in",
            "out.0": "conv_norm_out",
            "out.2": "conv_out",
            "time_embed.0": "time_embedding.linear_1",
            "time_embed.2": "time_embedding.linear_2",
        }
    ).items()
)
for _ours in ("class_embedding", "add_embedding"):
    UNET_MAP_BASIC |= set(
        _with_ends({"label_emb.0.0": f"{_ours}.linear_1", "label_emb.0.2": f"{_ours}.linear_2"}).items()
    )


def unet_to_diffusers(unet_config: Mapping[str, Any]) -> dict[str, str]:
    """diffusers name -> checkpoint name of every tensor of a UNet of that configuration."""
    if "num_res_blocks" not in unet_config:
        return {}
    return {**dict(_pairs(unet_config)), **{ours: theirs for theirs, ours in UNET_MAP_BASIC}}


def _pairs(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    blocks = list(config["num_res_blocks"])
    down, up = list(config["transformer_depth"]), list(config["transformer_depth_output"])
    number = 1
    for level, count in enumerate(blocks):
        for i in range(count):
            yield from _resnet(f"down_blocks.{level}.resnets.{i}", f"input_blocks.{number}.0")
            yield from _transformer(
                f"down_blocks.{level}.attentions.{i}", f"input_blocks.{number}.1", down.pop(0)
            )
            number += 1
        yield from _ends(f"down_blocks.{level}.downsamplers.0.conv", f"input_blocks.{number}.0.op")
        number += 1
    yield from _transformer("mid_block.attentions.0", "middle_block.1", config["transformer_depth_middle"])
    for i in range(2):
        yield from _resnet(f"mid_block.resnets.{i}", f"middle_block.{2 * i}")
    number = 0
    for level, count in enumerate(reversed(blocks)):
        for i in range(count + 1):
            depth = int(up.pop())
            yield from _resnet(f"up_blocks.{level}.resnets.{i}", f"output_blocks.{number}.0")
            yield from _transformer(f"up_blocks.{level}.attentions.{i}", f"output_blocks.{number}.1", depth)
            if i == count:
                place = f"output_blocks.{number}.{2 if depth else 1}.conv"
                yield from _ends(f"up_blocks.{level}.upsamplers.0.conv", place)
            number += 1


def _ends(ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    for end in _ENDS:
        yield f"{ours}.{end}", f"{theirs}.{end}"


def _resnet(ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    for checkpoint, diffusers in UNET_MAP_RESNET.items():
        yield f"{ours}.{diffusers}", f"{theirs}.{checkpoint}"


def _transformer(ours: str, theirs: str, depth: int) -> Iterator[tuple[str, str]]:
    if depth > 0:
        for name in UNET_MAP_ATTENTIONS:
            yield f"{ours}.{name}", f"{theirs}.{name}"
    for block in range(depth):
        for name in TRANSFORMER_BLOCKS:
            yield f"{ours}.transformer_blocks.{block}.{name}", f"{theirs}.transformer_blocks.{block}.{name}"
