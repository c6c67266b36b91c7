"""ComfyUI's `comfy.ops`: layers that start without weights, and that cast their weights to what comes in."""

import torch

from comfy.model_management import cast_to  # noqa: F401


def cast_bias_weight(s, input=None, dtype=None, device=None, bias_dtype=None, offloadable=False):
    """(weight, bias) of a layer, as its input is; a third value with `offloadable`."""
    if input is not None:
        dtype = dtype or input.dtype
        device = device or input.device
    weight = s.weight.to(device=device, dtype=dtype)
    bias = None if s.bias is None else s.bias.to(device=device, dtype=bias_dtype or dtype)
    for function in getattr(s, "weight_function", ()):
        weight = function(weight)
    if bias is not None:
        for function in getattr(s, "bias_function", ()):
            bias = function(bias)
    return (weight, bias, None) if offloadable else (weight, bias)


def uncast_bias_weight(s, weight, bias, offload_stream):
    """There is nothing to give back."""


def cast_to_input(weight, input, non_blocking=False, copy=True):
    return weight.to(device=input.device, dtype=input.dtype, copy=copy)


class CastWeightBiasOp:
    comfy_cast_weights = False
    weight_function = []
    bias_function = []


def _layer(base, call, name):
    """A layer of torch's that starts without weights and can cast them."""

    class Layer(base, CastWeightBiasOp):
        def reset_parameters(self):
            """Weights are loaded."""

        def forward_comfy_cast_weights(self, *args, **kwargs):
            return call(self, *args, **kwargs)

        def forward(self, *args, **kwargs):
            if self.comfy_cast_weights or self.weight_function or self.bias_function:
                return self.forward_comfy_cast_weights(*args, **kwargs)
            return super().forward(*args, **kwargs)

    Layer.__name__ = Layer.__qualname__ = name
    return Layer


def _linear(self, input):
    return torch.nn.functional.linear(input, *cast_bias_weight(self, input))


def _conv(self, input):
    return self._conv_forward(input, *cast_bias_weight(self, input))


def _conv_transpose(self, input, output_size=None):
    weight, bias = cast_bias_weight(self, input)
    dims = weight.ndim - 2
    padding = self._output_padding(
        input, output_size, self.stride, self.padding, self.kernel_size, dims, self.dilation
    )
    function = torch.nn.functional.conv_transpose2d if dims == 2 else torch.nn.functional.conv_transpose1d
    return function(input, weight, bias, self.stride, self.padding, padding, self.groups, self.dilation)


def _group_norm(self, input):
    weight, bias = cast_bias_weight(self, input)
    return torch.nn.functional.group_norm(input, self.num_groups, weight, bias, self.eps)


def _layer_norm(self, input):
    weight, bias = cast_bias_weight(self, input) if self.weight is not None else (None, None)
    return torch.nn.functional.layer_norm(input, self.normalized_shape, weight, bias, self.eps)


def _rms_norm(self, input):
    weight = None if self.weight is None else self.weight.to(input)
    return torch.nn.functional.rms_norm(input, self.normalized_shape, weight, self.eps)


def _embedding(self, input, out_dtype=None):
    made = torch.nn.functional.embedding(
        input,
        self.weight,
        self.padding_idx,
        self.max_norm,
        self.norm_type,
        self.scale_grad_by_freq,
        self.sparse,
    )
    return made if out_dtype is None else made.to(out_dtype)


class disable_weight_init:
    """Layers without initial weights."""

    Linear = _layer(torch.nn.Linear, _linear, "Linear")
    Conv1d = _layer(torch.nn.Conv1d, _conv, "Conv1d")
    Conv2d = _layer(torch.nn.Conv2d, _conv, "Conv2d")
    Conv3d = _layer(torch.nn.Conv3d, _conv, "Conv3d")
    ConvTranspose1d = _layer(torch.nn.ConvTranspose1d, _conv_transpose, "ConvTranspose1d")
    ConvTranspose2d = _layer(torch.nn.ConvTranspose2d, _conv_transpose, "ConvTranspose2d")
    GroupNorm = _layer(torch.nn.GroupNorm, _group_norm, "GroupNorm")
    LayerNorm = _layer(torch.nn.LayerNorm, _layer_norm, "LayerNorm")
    RMSNorm = _layer(torch.nn.RMSNorm, _rms_norm, "RMSNorm")
    Embedding = _layer(torch.nn.Embedding, _embedding, "Embedding")

    @classmethod
    def conv_nd(cls, dims, *args, **kwargs):
        return {1: cls.Conv1d, 2: cls.Conv2d, 3: cls.Conv3d}[dims](*args, **kwargs)


def _casting(layer):
    return type(layer.__name__, (layer,), {"comfy_cast_weights": True})


class manual_cast(disable_weight_init):
    """Layers that cast their weights to what comes in."""

    Linear = _casting(disable_weight_init.Linear)
    Conv1d = _casting(disable_weight_init.Conv1d)
    Conv2d = _casting(disable_weight_init.Conv2d)
    Conv3d = _casting(disable_weight_init.Conv3d)
    ConvTranspose1d = _casting(disable_weight_init.ConvTranspose1d)
    ConvTranspose2d = _casting(disable_weight_init.ConvTranspose2d)
    GroupNorm = _casting(disable_weight_init.GroupNorm)
    LayerNorm = _casting(disable_weight_init.LayerNorm)
    RMSNorm = _casting(disable_weight_init.RMSNorm)
    Embedding = _casting(disable_weight_init.Embedding)


class fp8_ops(manual_cast): ...


def scaled_fp8_ops(fp8_matrix_mult=False, scale_input=False, override_dtype=None):
    return manual_cast


def pick_operations(
    weight_dtype,
    compute_dtype,
    load_device=None,
    disable_fast_fp8=False,
    fp8_optimizations=False,
    scaled_fp8=None,
):
    """The layers for weights of one dtype that are computed with in another."""
    if compute_dtype is None or weight_dtype == compute_dtype:
        return disable_weight_init
    return manual_cast
