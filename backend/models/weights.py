"""Weights from files into modules: tensor by tensor, converted and cast on the way, once per machine.

What would take more memory than it does in the file may stay in the file's form (`stored.py`): weights in
eighth formats and in blocks always, halves where all of them together are large.
"""

import mmap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import field, replace
from functools import partial
from typing import TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from backend.components import File
from backend.errors import BadFile
from backend.models.adapters import Conv2d, Linear
from backend.models.blocks import Packing, unpacked
from backend.models.gguf import SIZES, is_gguf, read_gguf
from backend.models.header import Header, TensorInfo, check_unchanged, read_header
from backend.models.hostcopy import Form, HostCopy, Source
from backend.models.pickles import is_pickle, named_tensors
from backend.values import frozen

Convert: TypeAlias = Callable[[str, Tensor], Iterator[tuple[str, Tensor]]]

LARGE = (
    200 << 20
)  # bytes of halves from which on they stay halves: wider ones would take twice the file's size
_EIGHTHS = frozenset({"F8_E4M3", "F8_E5M2"})
_HALVES = frozenset({"F16", "BF16"})
_DTYPES = {
    **{"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64},
    **{"I8": torch.int8, "I16": torch.int16, "I32": torch.int32, "I64": torch.int64},
}
_SCALES = (".scale_weight", ".weight_scale")  # what a layer's eighths are multiplied with
_BESIDE = (*_SCALES, ".scale_input", ".input_scale", ".comfy_quant", "scaled_fp8")  # no weights themselves
_TABLE = 4096  # entries from which on an embedding is worth being left in the file's form


@frozen
class ModelFile:
    """A model file, opened: its header, and a way to its tensors by their names in `header`'s file."""

    header: Header
    pickled: Mapping[str, Tensor] | None = None
    file: File | None = None  # what it was when it was identified
    packings: Mapping[str, Packing] = field(default_factory=dict)  # of those in blocks, by their names here

    def under(self, prefix: str) -> "ModelFile":
        """The part of the file whose names begin with `prefix`."""
        packings = {n.removeprefix(prefix): p for n, p in self.packings.items() if n.startswith(prefix)}
        return ModelFile(self.header.under(prefix), self.pickled, self.file, packings)

    def check(self) -> None:
        """Raises: BadFile where the file is no longer the one that was identified."""
        if self.file is not None:
            check_unchanged(self.file)

    def tensor(self, name: str) -> Tensor:
        """One tensor of `header`. Raises: BadFile."""
        if self.pickled is not None:
            return self.pickled[self.header.prefix + name]
        try:
            with safe_open(self.header.path, framework="pt", device="cpu") as file:
                return file.get_tensor(self.header.prefix + name)  # type: ignore[no-any-return]
        except (SafetensorError, OSError) as error:
            raise BadFile(self.header.path, str(error), "Download or copy the file again.") from error

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
    """A model file: safetensors, GGUF, or a pickle of named tensors. Reads no weights but a pickle's.

    Raises: BadFile where the file is missing, damaged, or holds no named tensors.
    """
    if is_gguf(path):
        return _open_gguf(path)
    if not is_pickle(path):
        return ModelFile(read_header(path))
    return ModelFile(*named_tensors(path))


def open_file(file: File) -> ModelFile:
    """An identified model file. Raises: BadFile as `open_model`, and where it has changed since."""
    check_unchanged(file)
    opened = open_model(file.path)
    return replace(opened, file=file)


def _open_gguf(path: str) -> ModelFile:
    """Its tensors are mapped; those in blocks are uint8 [rows, bytes of a row]."""
    header = read_gguf(path)
    with open(path, "rb") as stream:
        mapping = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
    tensors, packings = dict[str, Tensor](), dict[str, Packing]()
    for name, info in header.tensors.items():
        start, end = info.span
        flat = torch.frombuffer(mapping, dtype=torch.uint8, count=end - start, offset=start)
        if info.dtype in SIZES:
            packings[name] = Packing(info.dtype, info.shape)
            tensors[name] = flat.reshape(_packed(info))
        else:
            tensors[name] = flat.view(_DTYPES[info.dtype]).reshape(info.shape)
    return ModelFile(header, tensors, packings=packings)


def _packed(info: TensorInfo) -> tuple[int, int]:
    """The shape of a tensor in blocks as it stands in the file. Blocks never reach over the end of a row."""
    length = info.span[1] - info.span[0]
    rows = info.shape[0] if info.shape and length % info.shape[0] == 0 else 1
    return rows, length // rows


def fill(
    module: nn.Module,
    file: ModelFile,
    convert: Convert,
    device: torch.device,
    form: Form | torch.dtype,
    copy: HostCopy | None = None,
    frugal: bool = False,
    narrow: torch.dtype | None = None,
) -> int:
    """Give a module that was made on the meta device its weights.

    Args: convert turns one tensor of the file into the module's tensors it becomes (none: it is not needed);
        form: what floating tensors are cast to, one at a time, and their memory format; what is already
        right stays mapped from the disk; copy: where a CPU's workers share the rest (None: each has its own);
        frugal: large numbers of halves stay what they are, if they would be widened; narrow: an eighth format
        that all of them are cast to.
    Returns: the bytes of all weights. Raises: BadFile naming missing, unexpected or misshapen tensors.
    """
    form = form if isinstance(form, Form) else Form(form)
    kept = _prepared(module, file, convert, frugal and form.dtype == torch.float32)
    kept = kept if narrow is None else _weights_of(module)
    form = replace(form, kept=kept)
    wanted = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    source = partial(_targets, file, convert, wanted)
    if narrow is not None:
        source = partial(_narrowed, source, narrow, _ways_in(module))
    found = _shared(file, source, form, copy) if copy is not None and device.type == "cpu" else None
    if found is None:
        found = {name: form.made(name, value, device) for name, value in source()}
    file.check()
    nbytes = sum(value.nbytes for value in found.values())
    module.load_state_dict(found, strict=True, assign=True)
    for name in form.kept:
        if isinstance(layer := module.get_submodule(name.removesuffix(".weight")), Linear | Conv2d):
            layer.computes = form.dtype
    module.requires_grad_(False).eval()
    return nbytes


def as_stored(tensors: Iterable[TensorInfo], frugal: bool) -> frozenset[str]:
    """safetensors' names of the number formats whose large tensors stay what they are, in a file with
    these.
    """
    halves = sum(info.span[1] - info.span[0] for info in tensors if info.dtype in _HALVES)
    return _EIGHTHS | frozenset(SIZES) | (_HALVES if frugal and halves >= LARGE else frozenset())


def _weights_of(module: nn.Module) -> frozenset[str]:
    """The weights of all layers that can take them in another form."""
    layers = (name for name, layer in module.named_modules() if isinstance(layer, Linear | Conv2d))
    return frozenset(f"{name}.weight" for name in layers)


def _ways_in(module: nn.Module) -> frozenset[str]:
    """What ComfyUI keeps whole whatever weights are cast to: the way into networks over frames."""
    layers = (name for name, layer in module.named_modules() if isinstance(layer, nn.Conv3d))
    return frozenset(f"{name}.{part}" for name in layers for part in ("weight", "bias"))


def _narrowed(source: Source, narrow: torch.dtype, whole: frozenset[str]) -> Iterator[tuple[str, Tensor]]:
    for name, value in source():
        cast = value.is_floating_point() and value.ndim and name not in whole
        yield name, value.to(narrow) if cast else value


def _prepared(module: nn.Module, file: ModelFile, convert: Convert, frugal: bool) -> frozenset[str]:
    """Make layers ready for weights in other forms than they compute with. Returns: those tensors' names."""
    kept: set[str] = set()
    layers = dict(module.named_modules())
    stays = as_stored(file.header.tensors.values(), frugal)
    for name, info in file.header.tensors.items():
        packing = file.packings.get(name)
        if name.endswith(_BESIDE) or (packing is None and info.dtype not in stays):
            continue
        shape = info.shape if packing is None else _packed(info)
        for target, value in convert(name, torch.empty(shape, device="meta")):
            if _stays(layers, target, tuple(value.shape), packing, _scale_of(file, name) is not None):
                kept.add(target)
    return frozenset(kept)


def _stays(
    layers: Mapping[str, nn.Module],
    target: str,
    shape: tuple[int, ...],
    packing: Packing | None,
    scaled: bool,
) -> bool:
    """Whether a tensor of the network may be stored otherwise than it is computed with; its layer is then
    told.
    """
    site, _, end = target.rpartition(".")
    layer = layers.get(site) if end == "weight" else None
    if isinstance(layer, nn.Embedding):
        return packing is None and not scaled and layer.num_embeddings >= _TABLE
    if not isinstance(layer, Linear | Conv2d):
        return False
    if packing is not None:
        whole = tuple(layer.weight.shape)
        layer.packing = replace(packing, shape=whole)
        layer.weight = nn.Parameter(torch.empty(shape, dtype=torch.uint8, device="meta"), requires_grad=False)
    if scaled:
        layer.register_buffer("scale", torch.empty((), device="meta"))
    return True


def _scale_of(file: ModelFile, name: str) -> str | None:
    """The name of the number that a weight is multiplied with."""
    layer = name.removesuffix(".weight")
    return next((layer + end for end in _SCALES if layer + end in file.header), None)


def _targets(
    file: ModelFile, convert: Convert, wanted: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[str, Tensor]]:
    """The module's tensors, in its shapes. Raises: BadFile at the end, for missing and unexpected names."""
    found: set[str] = set()
    unexpected: list[str] = []
    scales: dict[str, Tensor] = {}
    for name, source in file.tensors():
        if name.endswith(_BESIDE):
            continue
        scale = None if (beside := _scale_of(file, name)) is None else file.tensor(beside)
        for target, value in convert(name, source):
            if target not in wanted:
                unexpected.append(file.header.prefix + name)
                continue
            beside = f"{target.removesuffix('.weight')}.scale"
            if scale is not None and beside in wanted:
                scales[beside] = scale.float().reshape(())
            elif scale is not None:
                value = value.float() * scale.float()
            found.add(target)
            yield target, _fit(file, name, _dense(file, name, value, wanted[target]), wanted[target])
    yield from scales.items()
    _complain(file, "is missing", [name for name in wanted if name not in found and name not in scales])
    _complain(file, "has unexpected", unexpected)


def _dense(file: ModelFile, name: str, value: Tensor, shape: tuple[int, ...]) -> Tensor:
    """What comes in blocks, unless it is wanted so."""
    packing = file.packings.get(name)
    if packing is None or tuple(value.shape) == shape:
        return value
    return unpacked(value, replace(packing, shape=shape), torch.float32)


def _shared(file: ModelFile, source: Source, form: Form, copy: HostCopy) -> dict[str, Tensor] | None:
    """The tensors, where all workers have them: in the file itself, and what has another form there in the
    copy.
    """
    fitting: dict[str, Tensor] = {}
    rest: list[str] = []
    for name, value in source():
        if form.fits(name, value):
            fitting[name] = value
        else:
            rest.append(name)
    if not rest:
        return fitting
    names = frozenset(rest)

    def others() -> Iterator[tuple[str, Tensor]]:
        yield from ((name, value) for name, value in source() if name in names)

    copied = copy.find(form) or copy.make(form, others, file.check)
    return None if copied is None else {**fitting, **copied}


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
