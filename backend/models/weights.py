"""Weights from files into modules: tensor by tensor, converted and cast on the way, once per machine."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from backend.errors import BadFile
from backend.models.header import Header, check_unchanged, read_header
from backend.models.hostcopy import Form, HostCopy, Source
from backend.models.pickles import is_pickle, named_tensors
from backend.references import File

Convert: TypeAlias = Callable[[str, Tensor], Iterator[tuple[str, Tensor]]]


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model file, opened: its header, and a way to its tensors by their names in `header`'s file."""

    header: Header
    pickled: Mapping[str, Tensor] | None = None
    file: File | None = None  # what it was when it was identified

    def under(self, prefix: str) -> "ModelFile":
        """The part of the file whose names begin with `prefix`."""
        return ModelFile(self.header.under(prefix), self.pickled, self.file)

    def check(self) -> None:
        """Raises: BadFile where the file is no longer the one that was identified."""
        if self.file is not None:
            check_unchanged(self.file)

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


def open_model(path: str) -> ModelFile:
    """A model file: safetensors, or a pickle of named tensors. Reads no weights of a safetensors file.

    Raises: BadFile where the file is missing, damaged, or holds no named tensors.
    """
    if not is_pickle(path):
        return ModelFile(read_header(path))
    return ModelFile(*named_tensors(path))


def open_file(file: File) -> ModelFile:
    """An identified model file. Raises: BadFile as `open_model`, and where it has changed since."""
    check_unchanged(file)
    opened = open_model(file.path)
    return ModelFile(opened.header, opened.pickled, file)


def fill(
    module: nn.Module,
    file: ModelFile,
    convert: Convert,
    device: torch.device,
    form: Form | torch.dtype,
    copy: HostCopy | None = None,
) -> int:
    """Give a module that was made on the meta device its weights.

    Args: convert turns one tensor of the file into the module's tensors it becomes (none: it is not needed);
        form: what floating tensors are cast to, one at a time, and their memory format; what is already
        right stays mapped from the disk; copy: where a CPU's workers share the rest (None: each has its own).
    Returns: the bytes of all weights. Raises: BadFile naming missing, unexpected or misshapen tensors.
    """
    wanted = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    form = form if isinstance(form, Form) else Form(form)
    source = partial(_targets, file, convert, wanted)
    found = _shared(file, source, form, copy) if copy is not None and device.type == "cpu" else None
    if found is None:
        found = {name: form.made(value, device) for name, value in source()}
    file.check()
    module.load_state_dict(found, strict=True, assign=True)
    module.requires_grad_(False).eval()
    return sum(value.nbytes for value in found.values())


def _targets(
    file: ModelFile, convert: Convert, wanted: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[str, Tensor]]:
    """The module's tensors, in its shapes. Raises: BadFile at the end, for missing and unexpected names."""
    found: set[str] = set()
    unexpected: list[str] = []
    for name, source in file.tensors():
        for target, value in convert(name, source):
            if target in wanted:
                found.add(target)
                yield target, _fit(file, name, value, wanted[target])
            else:
                unexpected.append(file.header.prefix + name)
    _complain(file, "is missing", [name for name in wanted if name not in found])
    _complain(file, "has unexpected", unexpected)


def _shared(file: ModelFile, source: Source, form: Form, copy: HostCopy) -> dict[str, Tensor] | None:
    """The tensors, where all workers have them: in the file itself, or in the copy."""
    if (copied := copy.find(form)) is not None:
        return copied
    found: dict[str, Tensor] = {}
    for name, value in source():
        if not form.fits(value):
            return copy.make(form, source, file.check)
        found[name] = value
    return found


def _fit(file: ModelFile, name: str, value: Tensor, shape: tuple[int, ...]) -> Tensor:
    """`value` in the module's shape. A matrix and the kernel of a 1x1 convolution are the same numbers."""
    if tuple(value.shape) == shape:
        return value
    if _without_ones(value.shape) == _without_ones(shape):
        return value.reshape(shape)
    sizes = f"shape {list(value.shape)} where the model has {list(shape)}"
    problem = f"tensor {file.header.prefix + name!r} has {sizes}"
    raise BadFile(file.header.path, problem, "This file does not fit its own kind of model; try another one.")


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
