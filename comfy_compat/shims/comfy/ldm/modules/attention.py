"""ComfyUI's `comfy.ldm.modules.attention`: attention as functions that packs put in its place call."""

import functools

from torch import nn

import comfy.ops
from comfy.ldm.util import default, exists  # noqa: F401

ops = comfy.ops.disable_weight_init


def get_attn_precision(attn_precision, current_dtype):
    return attn_precision


def wrap_attn(func):
    """Let a function in `transformer_options` stand in for an attention function."""

    @functools.wraps(func)
    def wrapper(*args, **kwargs):
        override = (kwargs.get("transformer_options") or {}).get("optimized_attention_override")
        if override is not None and not kwargs.pop("_inside_attn_wrapper", False):
            return override(func, *args, **{**kwargs, "_inside_attn_wrapper": True})
        kwargs.pop("_inside_attn_wrapper", None)
        return func(*args, **kwargs)

    return wrapper


@wrap_attn
def attention_pytorch(
    q, k, v, heads, mask=None, attn_precision=None, skip_reshape=False, skip_output_reshape=False, **kwargs
):
    """Attention of q, k, v [B, T, heads * d] (skip_reshape: [B, heads, T, d]) -> [B, T, heads * d]."""
    if not skip_reshape:
        q, k, v = (t.view(t.shape[0], -1, heads, t.shape[-1] // heads).transpose(1, 2) for t in (q, k, v))
    if mask is not None:
        mask = mask.unsqueeze(0) if mask.ndim == 2 else mask
        mask = mask.unsqueeze(1) if mask.ndim == 3 else mask
    out = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    if skip_output_reshape:
        return out
    return out.transpose(1, 2).reshape(q.shape[0], -1, heads * v.shape[-1])


attention_basic = attention_split = attention_sub_quad = attention_xformers = attention_pytorch
attention_sage = attention_flash = optimized_attention = optimized_attention_masked = attention_pytorch
REGISTERED_ATTENTION_FUNCTIONS = {"pytorch": attention_pytorch}


def register_attention_function(name, func):
    REGISTERED_ATTENTION_FUNCTIONS[name] = func


def get_attention_function(name, default=None):  # noqa: F811  # its parameter
    return REGISTERED_ATTENTION_FUNCTIONS.get(name, default)


def optimized_attention_for_device(device, mask=False, small_input=False):
    return attention_pytorch


class GEGLU(nn.Module):
    def __init__(self, dim_in, dim_out, dtype=None, device=None, operations=ops):
        super().__init__()
        self.proj = operations.Linear(dim_in, dim_out * 2, dtype=dtype, device=device)

    def forward(self, x):
        value, gate = self.proj(x).tensor_split(2, dim=-1)
        return value * nn.functional.gelu(gate)


class FeedForward(nn.Module):
    """Two linear layers with a gate or GELU between."""

    def __init__(
        self, dim, dim_out=None, mult=4, glu=False, dropout=0.0, dtype=None, device=None, operations=ops
    ):
        super().__init__()
        inner = int(dim * mult)
        first = GEGLU(dim, inner, dtype, device, operations)
        if not glu:
            linear = operations.Linear(dim, inner, dtype=dtype, device=device)
            first = nn.Sequential(linear, nn.GELU())
        last = operations.Linear(inner, dim_out or dim, dtype=dtype, device=device)
        self.net = nn.Sequential(first, nn.Dropout(dropout), last)

    def forward(self, x):
        return self.net(x)


class CrossAttention(nn.Module):
    """Attention over a context."""

    def __init__(
        self,
        query_dim,
        context_dim=None,
        heads=8,
        dim_head=64,
        dropout=0.0,
        attn_precision=None,
        dtype=None,
        device=None,
        operations=ops,
    ):
        super().__init__()
        inner, context = dim_head * heads, context_dim or query_dim
        self.heads, self.dim_head, self.attn_precision = heads, dim_head, attn_precision
        place = {"dtype": dtype, "device": device}
        self.to_q = operations.Linear(query_dim, inner, bias=False, **place)
        self.to_k = operations.Linear(context, inner, bias=False, **place)
        self.to_v = operations.Linear(context, inner, bias=False, **place)
        self.to_out = nn.Sequential(operations.Linear(inner, query_dim, **place), nn.Dropout(dropout))

    def forward(self, x, context=None, value=None, mask=None, transformer_options={}):
        context = x if context is None else context
        keys, values = self.to_k(context), self.to_v(context if value is None else value)
        return self.to_out(optimized_attention(self.to_q(x), keys, values, self.heads, mask))


class BasicTransformerBlock(nn.Module):
    """A class to ask for with isinstance; the server's own blocks are in the workers."""


class SpatialTransformer(nn.Module):
    """As `BasicTransformerBlock`."""


class SpatialVideoTransformer(SpatialTransformer): ...


class TimestepEmbedSequential(nn.Sequential): ...


def Normalize(in_channels, dtype=None, device=None):
    return nn.GroupNorm(32, in_channels, eps=1e-6, affine=True, dtype=dtype, device=device)
