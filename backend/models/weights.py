"""Weights from files into modules: tensor by tensor, converted and cast on the way, never twice in memory."""

import pickle
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from backend.errors import BadFile
from backend.models.header import Header, TensorInfo, read_header

Convert: TypeAlias = Callable[[str, Tensor], Iterator[tuple[str, Tensor]]]
_PICKLES = (".ckpt", ".pt", ".pth", ".bin")
# what torch raises for bytes that are no pickle: whatever its machine stumbles over first
_DAMAGE = (OSError, RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError, struct.error)
_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model file, opened: its header, and a way to its tensors by their names in `header`'s file."""

    header: Header
    pickled: Mapping[str, Tensor] | None = None

    def under(self, prefix: str) -> "ModelFile":
        """The part of the file whose names begin with `prefix`."""
        return ModelFile(self.header.under(prefix), self.pickled)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor of `header`, mapped from the disk: nothing is read before it is used."""
        names, prefix = sorted(self.header), self.header.prefix
        if self.pickled is not None:
            yield from ((name, self.pickled[prefix + name]) for name in names)
            return
        try:
            with safe_open(self.header.path, framework="pt", device="cpu") as file:
                for name in names:
                    yield name, file.get_tensor(prefix + name)
        except (SafetensorError, OSError) as error:
            raise BadFile(self.header.path, str(error), "Download or copy the file again.") from error


def is_pickle(path: str) -> bool:
    return path.lower().endswith(_PICKLES)


def load_pickle(path: str) -> object:
    """What a pickle of torch's holds, read with weights_only: no code in it runs, ever.

    Raises: BadFile where the file is missing, damaged, or holds more than tensors and plain values.
    """
    try:
        with open(path, "rb") as file:
            zipped = file.read(2) == b"PK"  # only torch's zipped format can be mapped from the disk
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        remedy = "Convert it to safetensors where you trust it: files that run code are never loaded."
        raise BadFile(path, f"this pickle holds more than tensors ({_first_line(error)})", remedy) from error
    except _DAMAGE as error:
        problem, remedy = f"this pickle can't be read ({_first_line(error)})", "Download the file again."
        raise BadFile(path, problem, remedy) from error


def open_model(path: str) -> ModelFile:
    """A model file: safetensors, or a pickle of named tensors. Reads no weights of a safetensors file.

    Raises: BadFile where the file is missing, damaged, or holds no named tensors.
    """
    if not is_pickle(path):
        return ModelFile(read_header(path))
    content = load_pickle(path)
    if not isinstance(content, Mapping):
        raise BadFile(path, "this file holds no named tensors", "Use a model in the safetensors format.")
    named = content.get("state_dict", content)
    tensors = {str(k): v for k, v in named.items() if isinstance(v, Tensor)}
    infos = {k: TensorInfo(_NAMES.get(v.dtype, str(v.dtype)), tuple(v.shape)) for k, v in tensors.items()}
    return ModelFile(Header(path, infos), tensors)


def fill(
    module: nn.Module, file: ModelFile, convert: Convert, device: torch.device, dtype: torch.dtype
) -> int:
    """Give a module that was made on the meta device its weights.

    Args: convert turns one tensor of the file into the module's tensors it becomes (none: it is not needed);
        floating tensors are cast to dtype, one at a time; what is already right stays mapped from the disk.
    Returns: the bytes of all weights. Raises: BadFile naming missing, unexpected or misshapen tensors.
    """
    wanted = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    found: dict[str, Tensor] = {}
    unexpected: list[str] = []
    for name, source in file.tensors():
        for target, value in convert(name, source):
            if target not in wanted:
                unexpected.append(file.header.prefix + name)
                continue
            found[target] = _placed(_fit(file, name, value, wanted[target]), device, dtype)
    _complain(file, "is missing", [name for name in wanted if name not in found])
    _complain(file, "has unexpected", unexpected)
    module.load_state_dict(found, strict=True, assign=True)
    module.requires_grad_(False).eval()
    return sum(value.nbytes for value in found.values())


def _fit(file: ModelFile, name: str, value: Tensor, shape: tuple[int, ...]) -> Tensor:
    """`value` in the module's shape. A matrix and the kernel of a 1x1 convolution are the same numbers."""
    if tuple(value.shape) == shape:
        return value
    if _without_ones(value.shape) == _without_ones(shape):
        return value.reshape(shape)
    sizes = f"shape {list(value.shape)} where the model has {list(shape)}"
    problem = f"tensor {file.header.prefix + name!r} has {sizes}"
    raise BadFile(file.header.path, problem, "This file does not fit its own kind of model; try another one.")


def _placed(value: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    return value.to(device, dtype) if value.is_floating_point() else value.to(device)


def _without_ones(shape: tuple[int, ...] | torch.Size) -> tuple[int, ...]:
    kept = list(shape)
    while len(kept) > 1 and kept[-1] == 1:
        kept.pop()
    return tuple(kept)


def _complain(file: ModelFile, what: str, names: list[str]) -> None:
    if not names:
        return
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    remedy = "Use a complete model file of a supported family."
    raise BadFile(file.header.path, f"it {what} {len(names)} tensors: {shown}", remedy)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
