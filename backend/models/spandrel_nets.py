"""Upscalers of the many architectures that the library spandrel knows; it is an optional extra."""

import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from backend.errors import BadFile
from backend.models.weights import ModelFile

_EXTRA = "Install the extra for upscale models: pip install 'tessera-serve[upscale]'."
# What spandrel imports to define two networks that restore faces or fill holes; an upscaler calls none of it.
_NAMES = {"torchvision.transforms.functional": ("InterpolationMode", "normalize", "rotate")}


def load_other(
    file: ModelFile, device: torch.device, dtype: torch.dtype
) -> tuple[Callable[[Tensor], Tensor], int, int, int]:
    """The network of a file: its function on [1, C, h, w], its scale, the channels it takes, its bytes.

    Raises: BadFile where spandrel is not installed, does not know it, or says that it is no upscaler.
    """
    path = file.header.path
    if importlib.util.find_spec("spandrel") is None:
        raise BadFile(path, "this is no ESRGAN, and other upscale models need the library spandrel", _EXTRA)
    try:
        with _torchvision_names():
            spandrel = importlib.import_module("spandrel")
    except ImportError as error:
        raise BadFile(
            path, f"spandrel, which knows such networks, can't be loaded: {error}", _EXTRA
        ) from error
    try:
        model: Any = spandrel.ModelLoader(device="cpu").load_from_state_dict(dict(file.tensors()))
    except spandrel.UnsupportedModelError as error:
        raise BadFile(
            path, "spandrel knows no such network", "Use an upscale model that it knows."
        ) from error
    except (
        RuntimeError
    ) as error:  # torch's, where names or shapes are not those of the network it is taken for
        problem = f"its tensors do not fit: {str(error).splitlines()[0]}"
        raise BadFile(path, problem, "Download or copy the file again.") from error
    if not isinstance(model, spandrel.ImageModelDescriptor):
        raise BadFile(path, "it does not make one picture of one picture", "Use an upscale model.")
    file.check()
    model.model.requires_grad_(False).to(device, dtype).eval()
    nbytes = sum(value.nbytes for value in model.model.state_dict().values())

    def run(tile: Tensor) -> Tensor:
        with torch.no_grad():
            result: Tensor = model(tile)
        return result

    return run, int(model.scale), int(model.input_channels), nbytes


@contextmanager
def _torchvision_names() -> Iterator[None]:
    """Where torchvision is not installed, names that can be imported from it for the moment."""
    if "torchvision" in sys.modules or importlib.util.find_spec("torchvision") is not None:
        yield
        return
    placed = []
    for module, names in _NAMES.items():
        parents = module.split(".")
        for depth in range(1, len(parents) + 1):
            name = ".".join(parents[:depth])
            stand_in = types.ModuleType(name)
            stand_in.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
            stand_in.__path__ = []
            sys.modules[name] = stand_in
            placed.append(name)
        vars(sys.modules[module]).update(dict.fromkeys(names, _missing))
    try:
        yield
    finally:
        for name in placed:
            sys.modules.pop(name, None)


def _missing(*_: object, **__: object) -> None:
    raise ImportError("this network needs torchvision: install it")
