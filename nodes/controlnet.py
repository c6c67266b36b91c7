"""ControlNets: load one, and put it to work on conditionings."""

from dataclasses import replace
from typing import Annotated

from backend.library import Library
from backend.node import Choice, Float, node
from backend.references import ControlNet, ControlUse, Model, Vae
from backend.storage import Storage
from backend.types import Conditioning, Image, Mask

CATEGORY = "conditioning/controlnet"
ControlNetName = Annotated[str, Choice(lambda s: s.files("controlnet"))]
Strength = Annotated[float, Float(0.0, 10.0, step=0.01)]
Percent = Annotated[float, Float(0.0, 1.0, step=0.001)]
# The kinds of pictures that union models know, in the order of their numbers.
UNION_TYPES = (
    "openpose",
    "depth",
    "hed/pidi/scribble/ted",
    "canny/lineart/anime_lineart/mlsd",
    "normal",
    "segment",
    "tile",
    "repaint",
)
# The names of models that want their additions averaged over the picture end so.
AVERAGED = ("_shuffle", "_shuffle_fp16")


@node("ControlNetLoader", category="loaders", display_name="Load ControlNet Model")
def control_net_loader(*, control_net_name: ControlNetName, library: Library) -> ControlNet:
    """A ControlNet from a file."""
    weights = library.find("controlnet", "controlnet", control_net_name)
    return ControlNet(weights, average=_averaged(control_net_name))


@node("DiffControlNetLoader", category="loaders", display_name="Load ControlNet Model (diff)")
def diff_control_net_loader(
    *, model: Model, control_net_name: ControlNetName, storage: Storage, library: Library
) -> ControlNet:
    """A ControlNet; where its file holds the difference to a model only, that to the model given."""
    file = storage.file("controlnet", control_net_name)
    weights = library.weights("controlnet", file, *model.weights.files)
    return ControlNet(weights, average=_averaged(control_net_name))


@node(
    "ControlNetApply",
    category=CATEGORY,
    display_name="Apply ControlNet (OLD)",
    deprecated=True,
)
def control_net_apply(
    *, conditioning: Conditioning, control_net: ControlNet, image: Image, strength: Strength = 1.0
) -> Conditioning:
    """A ControlNet for the conditioning, and for the negative side too unless that has its own."""
    if strength == 0:
        return conditioning
    return controlled(conditioning, ControlUse(control_net, image, strength), for_both=True)


@node(
    "ControlNetApplyAdvanced",
    category=CATEGORY,
    display_name="Apply ControlNet",
    outputs=("positive", "negative"),
)
def control_net_apply_advanced(
    *,
    positive: Conditioning,
    negative: Conditioning,
    control_net: ControlNet,
    image: Image,
    strength: Strength = 1.0,
    start_percent: Percent = 0.0,
    end_percent: Percent = 1.0,
    vae: Vae | None = None,
) -> tuple[Conditioning, Conditioning]:
    """A ControlNet for both conditionings, in a part of the sampling: 0 is its start, 1 its end.

    The VAE is for models that take an encoded picture.
    """
    use = ControlUse(control_net, image, strength, start_percent, end_percent, vae)
    return _both(positive, negative, use)


@node(
    "ControlNetApplySD3",
    category=CATEGORY,
    display_name="Apply Controlnet with VAE",
    module="comfy_extras.nodes_sd3",
    outputs=("positive", "negative"),
    deprecated=True,
)
def control_net_apply_sd3(
    *,
    positive: Conditioning,
    negative: Conditioning,
    control_net: ControlNet,
    vae: Vae,
    image: Image,
    strength: Strength = 1.0,
    start_percent: Percent = 0.0,
    end_percent: Percent = 1.0,
) -> tuple[Conditioning, Conditioning]:
    """As `ControlNetApplyAdvanced`, for models that take an encoded picture."""
    use = ControlUse(control_net, image, strength, start_percent, end_percent, vae)
    return _both(positive, negative, use)


@node(
    "ControlNetInpaintingAliMamaApply",
    category=CATEGORY,
    display_name="ControlNetInpaintingAliMamaApply",
    module="comfy_extras.nodes_controlnet",
    outputs=("positive", "negative"),
)
def control_net_inpainting_ali_mama_apply(
    *,
    positive: Conditioning,
    negative: Conditioning,
    control_net: ControlNet,
    vae: Vae,
    image: Image,
    mask: Mask,
    strength: Strength = 1.0,
    start_percent: Percent = 0.0,
    end_percent: Percent = 1.0,
) -> tuple[Conditioning, Conditioning]:
    """A ControlNet that is shown what is to be kept of a picture, and told by the mask what is not."""
    use = ControlUse(control_net, image, strength, start_percent, end_percent, vae, mask)
    return _both(positive, negative, use)


@node(
    "SetUnionControlNetType",
    category=CATEGORY,
    display_name="SetUnionControlNetType",
    module="comfy_extras.nodes_controlnet",
)
def set_union_control_net_type(
    *, control_net: ControlNet, type: Annotated[str, Choice(("auto", *UNION_TYPES))]
) -> ControlNet:
    """A ControlNet for several kinds of pictures, told which one it gets; "auto" leaves it to itself."""
    return replace(control_net, kind=None if type == "auto" else UNION_TYPES.index(type))


def _both(
    positive: Conditioning, negative: Conditioning, use: ControlUse
) -> tuple[Conditioning, Conditioning]:
    if use.strength == 0:
        return positive, negative
    return controlled(positive, use, for_both=False), controlled(negative, use, for_both=False)


def controlled(conditioning: Conditioning, use: ControlUse, for_both: bool) -> Conditioning:
    """Every condition with one more ControlNet, whose additions come on top of those it has."""
    return tuple(
        replace(
            cond,
            options={
                **cond.options,
                "control": (*_uses(cond.options.get("control")), use),
                "control_apply_to_uncond": for_both,
            },
        )
        for cond in conditioning
    )


def _uses(control: object) -> tuple[object, ...]:
    return control if isinstance(control, tuple) else ()


def _averaged(name: str) -> bool:
    return name.rpartition(".")[0].endswith(AVERAGED)
