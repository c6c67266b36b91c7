"""Small random transformers as files in the original checkpoints' names, and the network as diffusers has
it.
"""

from collections import defaultdict

import torch
from torch import Tensor, nn

from backend.models.families import flux, qwen_image, sd3, wan, z_image
from backend.models.families.renaming import Renaming, Swapped
from backend.models.family import Layout
from backend.models.header import Header, TensorInfo

FLUX = flux.Flux(64, 2, 2, 32, 16, 24, 20, guided=True)
SCHNELL = flux.Flux(64, 1, 1, 32, 16, 24, 20, guided=False)
FILL = flux.Flux(64, 1, 1, 32, 96, 24, 20, guided=True)
SD3 = sd3.Sd3(128, 3, 12, 24, 20, 16)
SD35 = sd3.Sd3(128, 3, 12, 24, 20, 16, dual=(0, 1), normed=True)
QWEN = qwen_image.QwenImage(64, 2, 32, 16, 24)
Z_IMAGE = z_image.ZImage(96, 2, 1, 32, 16, 24, 200)
WAN = wan.Wan(128, 2, 96, 64, 16, 24)
ALL: dict[str, Layout] = {
    "flux": FLUX,
    "schnell": SCHNELL,
    "fill": FILL,
    "sd3": SD3,
    "sd35": SD35,
    "qwen_image": QWEN,
    "z_image": Z_IMAGE,
    "wan": WAN,
}
_AS_IS = Renaming({}, {})


def names_of(layout: Layout) -> Renaming:
    match layout:
        case flux.Flux():
            return flux.NAMES
        case sd3.Sd3():
            return layout._names()
        case z_image.ZImage():
            return z_image.NAMES
        case wan.Wan():
            return wan.NAMES
    return _AS_IS


def state_of(layout: Layout, seed: int = 0) -> dict[str, Tensor]:
    """Random weights by the network's own names."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: value.shape for name, value in layout.build().state_dict().items()}
    return {
        name: torch.randn(shape, generator=generator) * (0.1 if len(shape) > 1 else 0.3)
        for name, shape in shapes.items()
    }


def original(layout: Layout, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same weights by the names of the original checkpoints."""
    names = names_of(layout)
    swapped = {t.layer: n for n, t in names.layers.items() if isinstance(t, Swapped)}
    parts: dict[str, list[tuple[int, Tensor]]] = defaultdict(list)
    for name, value in state.items():
        site, _, end = name.rpartition(".")
        if site in swapped:
            parts[f"{swapped[site]}.{end}"].append((0, torch.cat(list(reversed(value.chunk(2))))))
        elif (whole := names.origin(name)) is not None:
            parts[whole.layer].append((0, value))
        elif (origin := names.origin(site)) is not None:
            scale = isinstance(layout, flux.Flux) and "norm" in origin.layer
            end = "scale" if scale else end
            place = 0 if origin.part is None else origin.part[0]
            parts[f"{origin.layer}.{end}"].append((place, value))
        else:
            parts[name].append((0, value))
    return {
        name: torch.cat([v for _, v in sorted(found, key=lambda e: e[0])]) if len(found) > 1 else found[0][1]
        for name, found in parts.items()
    }


def header_of(tensors: dict[str, Tensor], prefix: str = "") -> Header:
    return Header(
        "a.safetensors",
        {prefix + name: TensorInfo("F32", tuple(value.shape)) for name, value in tensors.items()},
    )


def loaded(layout: Layout, tensors: dict[str, Tensor]) -> nn.Module:
    """The network with the weights of a file."""
    module = layout.build()
    found = {ours: value for name, tensor in tensors.items() for ours, value in layout.convert(name, tensor)}
    module.load_state_dict(found, strict=True, assign=True)
    return module.eval()
