"""Where text encoders stand in model files, which they are, and which encoding they are for. Without torch.

The rules are ComfyUI's: it tells encoders by the same names, and chooses their encoding by the same types.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

from backend.models.header import Header
from backend.values import frozen

_OPEN_CLIP = "transformer.resblocks.0.ln_1.weight"  # OpenCLIP's own names
_CLIP = "text_model.encoder.layers.0.mlp.fc1.weight"  # transformers' names
_BIG = 1280  # width of OpenCLIP's bigG; an encoder as deep as it is taken for one, however wide
_DEEP = 31
_HUGE = 1024  # width of OpenCLIP's H
_NAMED = re.compile(
    r"((?:text_encoders\.)?(\w+)\.transformer\.).+"
)  # ComfyUI's own checkpoints, and CLIPSave
# A name that only one kind of network has: its tensor's last dimension -> the encoder (0: any other).
_OTHERS: Mapping[str, Mapping[int, str]] = {
    "encoder.block.23.layer.1.DenseReluDense.wi_1.weight": {2048: "t5xl", 0: "t5xxl"},
    "encoder.block.0.layer.1.DenseReluDense.wi_1.weight": {0: "t5xxl"},
    "model.layers.0.self_attn.k_proj.bias": {256: "qwen25_3b", 0: "qwen25_7b"},
    "model.layers.0.self_attn.q_norm.weight": {0: "qwen3_4b"},
    "model.layers.0.post_attention_layernorm.weight": {0: "llama3_8"},
}
# Tensors of an encoder's file that nothing computes with.
_UNUSED: Mapping[str, tuple[str, ...]] = {
    "clip_l": (".position_ids", "text_projection.weight", "text_projection", "logit_scale"),
    "clip_g": (".position_ids", "logit_scale"),
}
# A name's beginning in a checkpoint -> the encoding that its encoders are for.
_CHECKPOINTS = (
    ("cond_stage_model.transformer.", "sd15"),
    ("conditioner.embedders.0.transformer.", "sdxl"),
    ("conditioner.embedders.0.model.", "sdxl_refiner"),
    ("model.diffusion_model.joint_blocks.", "sd3"),
    ("model.diffusion_model.double_blocks.", "flux"),
    ("model.diffusion_model.transformer_blocks.0.img_mod.", "qwen_image"),
    ("model.diffusion_model.cap_embedder.", "z_image"),
)
# One encoder: the type that the user picked -> the encoding; "" for every type that is not listed.
_ALONE: Mapping[str, Mapping[str, str]] = {
    "clip_l": {"sd3": "sd3", "hidream": "hidream", "": "sd15"},
    "clip_g": {"sd3": "sd3", "hidream": "hidream", "stable_cascade": "stable_cascade", "": "sdxl_refiner"},
    "clip_h": {"": "sd2"},
    "t5xxl": {
        "sd3": "sd3",
        "ltxv": "ltxv",
        "pixart": "pixart",
        "chroma": "pixart",
        "wan": "wan",
        "hidream": "hidream",
        "": "mochi",
    },
    "qwen25_3b": {"": "omnigen2"},
    "qwen25_7b": {"hunyuan_image": "hunyuan_image", "": "qwen_image"},
    "qwen3_4b": {"": "z_image"},
    "llama3_8": {"": "hidream"},
}
_PAIRS = frozenset({"sd3", "flux", "hunyuan_video", "hidream", "hunyuan_image"})


# The conversation in which Qwen-Image-Edit's text encoder is shown pictures: arXiv:2508.02324, figure 15.
EDIT_SYSTEM = (
    "Describe the key features of the input image (color, shape, size, texture, objects, background), then "
    "explain how the user's text instruction should alter or modify the image. Generate a new image that "
    "meets the user's requirements while maintaining consistency with the original input where appropriate."
)
EDIT_FRAME = (
    f"<|im_start|>system\n{EDIT_SYSTEM}<|im_end|>\n<|im_start|>user\n{{}}<|im_end|>\n<|im_start|>assistant\n"
)


@frozen
class TextPlace:
    """An encoder in a file.

    part: which it is (clip_l, clip_g, t5xxl ...); prefix: stands before its names; added: what its names lack
    there; contained: in a file that holds more than text encoders.
    """

    part: str
    prefix: str = ""
    added: str = ""
    contained: bool = False

    def used(self, name: str) -> bool:
        """Whether the encoder needs a tensor of this name (one of its own names)."""
        return not name.endswith(_UNUSED.get(self.part, ()))

    def named(self, header: Header) -> Header:
        """What the encoder needs of a whole file, by its own names."""
        part = header.under(self.prefix)
        own = {self.added + name: info for name, info in part.tensors.items()}
        kept = {name: info for name, info in own.items() if self.used(name)}
        return Header(part.path, kept, part.metadata, part.prefix, part.marks)


def text_places(header: Header) -> tuple[TextPlace, ...]:
    """The text encoders of a whole file, in the order of a checkpoint's prefixes."""
    return tuple(_in_checkpoint(header)) or tuple(_named(header)) or tuple(_alone(header))


def part_of(header: Header) -> str | None:
    """Which encoder has these names; None for anything else."""
    if _OPEN_CLIP in header:
        return {_HUGE: "clip_h"}.get(header.shape(_OPEN_CLIP)[0], "clip_g")
    if _CLIP in header:
        width = header.shape(_CLIP)[1]
        if width == _BIG or header.count("text_model.encoder.layers.{}.") >= _DEEP:
            return "clip_g"
        return "clip_h" if width == _HUGE else "clip_l"
    for name, widths in _OTHERS.items():
        if name in header:
            return widths.get(header.shape(name)[-1], widths[0])
    return None


def checkpoint_encoding(header: Header) -> str:
    """The encoding that a checkpoint's text encoders are for; "" where nothing says so."""
    found = (encoding for start, encoding in _CHECKPOINTS if any(name.startswith(start) for name in header))
    return next(found, "")


def chosen_encoding(type: str, parts: Sequence[str]) -> str:
    """The encoding that a loader of encoders' own files chooses.

    Args: type: as CLIPLoader and DualCLIPLoader list it; parts: of the files' encoders, in their order.
    """
    if len(parts) == 1:
        listed = _ALONE.get(parts[0], {})
        return listed.get(type, listed.get("", type))
    if len(parts) == 2:
        return type if type in _PAIRS else "sdxl"
    return "sd3" if len(parts) == 3 else "hidream"


def _in_checkpoint(header: Header) -> Iterator[TextPlace]:
    for prefix in ("cond_stage_model.transformer.", "conditioner.embedders.0.transformer."):
        if (part := header.under(prefix)).tensors:
            bare = "embeddings.token_embedding.weight" in part  # as old merges have it
            yield TextPlace("clip_l", prefix, "text_model." if bare else "", contained=True)
    for prefix in ("conditioner.embedders.0.model.", "conditioner.embedders.1.model."):
        if _OPEN_CLIP in header.under(prefix):
            yield TextPlace("clip_g", prefix, contained=True)


def _named(header: Header) -> Iterator[TextPlace]:
    prefixes = {m[1]: m[2] for name in header if (m := _NAMED.fullmatch(name)) is not None}
    for prefix, part in prefixes.items():
        if part == part_of(header.under(prefix)) or prefix.startswith("text_encoders."):
            yield TextPlace(part, prefix, contained=prefix.startswith("text_encoders."))


def _alone(header: Header) -> Iterator[TextPlace]:
    if (part := part_of(header)) is not None:
        yield TextPlace(part)
