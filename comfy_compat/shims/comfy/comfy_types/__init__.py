"""ComfyUI's `comfy.comfy_types`: words for type hints."""

from collections.abc import Callable
from typing import Protocol, TypedDict

import torch

from comfy.comfy_types.node_typing import IO, CheckLazyMixin, ComfyNodeABC, FileLocator, InputTypeDict


class UnetApplyFunction(Protocol):
    """The network under a wrapper: latent and timestep in, prediction out."""

    def __call__(self, x: torch.Tensor, t: torch.Tensor, **kwargs) -> torch.Tensor: ...


class UnetApplyConds(TypedDict):
    """What the network is given beside latent and timestep."""

    c_concat: torch.Tensor | None
    c_crossattn: torch.Tensor | None
    control: torch.Tensor | None
    transformer_options: dict | None


class UnetParams(TypedDict):
    """What a wrapper is given: input [B, C, H, W], timestep [B], and the rows: 0 conditional, 1 not."""

    input: torch.Tensor
    timestep: torch.Tensor
    c: UnetApplyConds
    cond_or_uncond: list[int]


UnetWrapperFunction = Callable[[UnetApplyFunction, UnetParams], torch.Tensor]

__all__ = [
    "IO",
    "CheckLazyMixin",
    "ComfyNodeABC",
    "FileLocator",
    "InputTypeDict",
    "UnetApplyConds",
    "UnetApplyFunction",
    "UnetParams",
    "UnetWrapperFunction",
]
