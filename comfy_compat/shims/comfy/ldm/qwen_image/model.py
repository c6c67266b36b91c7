"""ComfyUI's `comfy.ldm.qwen_image.model`: classes for isinstance; the networks are in workers."""

from torch import nn


class QwenImageTransformer2DModel(nn.Module): ...


class FeedForward(nn.Module): ...


class GELU(nn.Module): ...


class LastLayer(nn.Module): ...


class QwenTimestepProjEmbeddings(nn.Module): ...


def apply_rotary_emb(x, freqs_cis):
    """Pairs of neighbouring numbers turned by complex numbers."""
    if x.shape[1] == 0:
        return x
    pairs = x.transpose(1, 2).reshape(*x.transpose(1, 2).shape[:-1], -1, 1, 2)
    turned = freqs_cis[..., 0] * pairs[..., 0] + freqs_cis[..., 1] * pairs[..., 1]
    return turned.flatten(-2).transpose(1, 2).type_as(x) if turned.ndim > 4 else turned.type_as(x)
