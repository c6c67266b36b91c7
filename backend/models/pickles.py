"""Pickles of torch's: read with weights_only, so that no code in them ever runs."""

import pickle
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING

from backend.deferred import torch
from backend.errors import BadFile
from backend.models.header import Header, TensorInfo

if TYPE_CHECKING:
    from torch import Tensor

_PICKLES = (".ckpt", ".pt", ".pth", ".bin")
# what torch raises for bytes that are no pickle: whatever its machine stumbles over first
_DAMAGE = (OSError, RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError, struct.error)
# Keys that a file's tensors may lie under, the averaged ones of a training before the last ones.
_WRAPPERS = ("model_state_dict", "state_dict", "params_ema", "params-ema", "params", "model", "net")
_NAMES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "uint8": "U8",
    "bool": "BOOL",
}


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


def named_tensors(path: str) -> "tuple[Header, dict[str, Tensor]]":
    """The tensors of a model file that is a pickle, mapped from the disk where its format allows that.

    Raises: BadFile as `load_pickle`, and where it holds no named tensors.
    """
    content = load_pickle(path)
    if not isinstance(content, Mapping):
        raise BadFile(path, "this file holds no named tensors", "Use a model in the safetensors format.")
    named = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), content)
    tensors = {str(k): v for k, v in named.items() if isinstance(v, torch.Tensor)}
    infos = {name: TensorInfo(_dtype(value), tuple(value.shape)) for name, value in tensors.items()}
    return Header(path, infos), tensors


def _dtype(value: "Tensor") -> str:
    name = str(value.dtype).removeprefix("torch.")
    return _NAMES.get(name, name)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
