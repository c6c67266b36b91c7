"""Control models, loaded: what they add to a denoiser's pass for a picture (the hint)."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from backend.components import File, Weights
from backend.errors import BadFile
from backend.models.adapters import adapt, applied
from backend.models.additions import Residuals
from backend.models.control_layout import ControlInputs, ControlLayout, HintFormat
from backend.models.controls import (
    flux_control,
    qwen_control,
    sd3_control,
    sd35_control,
    t2i_adapter,
    unet_control,
)
from backend.models.header import Header, TensorInfo
from backend.models.hostcopy import Form, HostCopies
from backend.models.residual import install_residuals
from backend.models.weights import ModelFile, fill, open_file
from backend.values import frozen

# A control model's header (names without prefix) -> its layout, None if it is of another kind.
CONTROLS: tuple[Callable[[Header], ControlLayout | None], ...] = (
    unet_control.detect,
    t2i_adapter.detect,
    flux_control.detect,
    sd3_control.detect,
    sd35_control.detect,
    qwen_control.detect,
)
_PREFIXES = ("control_model.", "")
_DIFFERENCE = "difference"  # an empty tensor: the weights are to be added to those of a UNet
_LORA = "lora_controlnet"  # an empty tensor: low-rank changes to a UNet's weights, and the rest in full
_UNET = ("model.diffusion_model.", "")


@frozen(eq=False)
class ControlModel:
    """weights: what it was loaded from; nbytes: of its weights."""

    weights: Weights
    layout: ControlLayout
    module: nn.Module
    nbytes: int
    device: torch.device
    dtype: torch.dtype

    @property
    def hint(self) -> HintFormat:
        return self.layout.hint

    @property
    def late(self) -> bool:
        """Whether what it adds is needed behind the way down of the denoiser, and not before."""
        return isinstance(self.layout, unet_control.UnetControl)

    def begin(self, given: ControlInputs) -> Callable[[], Residuals]:
        """What is to be added, computed when it is asked for."""
        return partial(self.forward, given)

    def forward(self, given: ControlInputs) -> Residuals:
        """What is to be added to the pass of some rows.

        Raises: UnsupportedOption where they are those of another kind of model.
        """
        placed = ControlInputs(
            self._map(given.x),
            self._map(given.hint),
            given.timesteps.to(self.device),
            self._placed(given.tokens),
            {name: self._placed(value) for name, value in given.extra.items()},
            given.kind,
        )
        with torch.no_grad(), applied({}):  # the pass that it is for may have LoRAs, it has none
            return self.layout.call(self.module, placed)

    def _map(self, value: Tensor) -> Tensor:
        value = self._placed(value)
        return value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value

    def _placed(self, value: Tensor) -> Tensor:
        return value.to(self.device, self.dtype)


def scaled(residuals: Residuals, strengths: Tensor, average: bool) -> Residuals:
    """Each row's residuals by its strength, float32 [R]. average: over the picture first."""

    def one(value: Tensor) -> Tensor:
        if average:
            value = value.mean(dim=(2, 3), keepdim=True).expand_as(value)
        return value * strengths.to(value).reshape(-1, *[1] * (value.ndim - 1))

    return residuals.each(one)


def needs_model(file: File) -> bool:
    """Whether a control model takes weights from the denoiser it is used with. Raises: BadFile."""
    header = open_file(file).header
    return _LORA in header or sd35_control.lacks_layers(header)


def load_controlnet(
    weights: Weights, device: torch.device, dtype: torch.dtype, copies: HostCopies | None = None
) -> ControlModel:
    """A control model of one file; a second file is the checkpoint that it is a part of, or is added to.

    Raises: BadFile where the file holds no control model of a known kind, or is damaged.
    """
    part, layout = _opened(weights.files)
    module = layout.build()
    install_residuals(module)
    adapt(module)
    form = Form(dtype, channels_last=True)
    nbytes = fill(module, part, layout.convert, device, form, copies.of(weights) if copies else None)
    return ControlModel(weights, layout, module, nbytes, device, dtype)


def _opened(files: Sequence[File]) -> tuple[ModelFile, ControlLayout]:
    file = open_file(files[0])
    remedy = "Use it with a model: it is a part of that."
    if _LORA in file.header:
        file = _with_low_rank(file, _base(files, remedy))
    elif sd35_control.lacks_layers(file.header):
        file = sd35_control.with_layers(file, _base(files, remedy))
    for prefix in _PREFIXES:
        part = file.under(prefix)
        for detect in CONTROLS:
            if (layout := detect(part.header)) is None:
                continue
            if _DIFFERENCE in file.header:
                remedy = "Load it with DiffControlNetLoader and the checkpoint it was made from."
                part = _added(part, _base(files, remedy))
            return part, layout
    remedy = "Use a ControlNet or T2I-Adapter made for Stable Diffusion, Flux.1 or Qwen-Image."
    raise BadFile(files[0].path, "no control model of a known kind is in it", remedy)


def _base(files: Sequence[File], remedy: str) -> ModelFile:
    """The diffusion model in the second file. Raises: BadFile where there is none."""
    if len(files) < 2:
        raise BadFile(files[0].path, "it is a ControlNet only together with a model", remedy)
    base = open_file(files[1])
    prefix = next(p for p in _UNET if p == "" or any(name.startswith(p) for name in base.header))
    return base.under(prefix)


def _added(part: ModelFile, base: ModelFile) -> ModelFile:
    """A difference model with its base's weights added, tensor by tensor of equal name."""
    unet: Mapping[str, Tensor] = dict(base.tensors())
    sums = {
        part.header.prefix + name: value + unet[name].to(value.dtype) if name in unet else value
        for name, value in part.tensors()
    }
    base.check()
    return ModelFile(part.header, sums, part.file)


def _with_low_rank(file: ModelFile, base: ModelFile) -> ModelFile:
    """The whole ControlNet: the base's way down and middle, with the file's own tensors and products."""
    own = dict(file.tensors())
    whole = {
        name: value
        for name, value in base.tensors()
        if name.startswith(("input_blocks.", "middle_block.", "time_embed.", "label_emb."))
    }
    for name, value in own.items():
        site, _, end = name.rpartition(".")
        if end == "down" and f"{site}.up" in own and f"{site}.weight" in whole:
            weight = whole[f"{site}.weight"]
            product = own[f"{site}.up"].float().flatten(1) @ value.float().flatten(1)
            whole[f"{site}.weight"] = weight.float() + product.reshape(weight.shape)
        elif end in ("weight", "bias"):
            whole[name] = value
    base.check()
    infos = {name: TensorInfo("F32", tuple(value.shape)) for name, value in whole.items()}
    return ModelFile(Header(file.header.path, infos), whole, file.file)
