"""ComfyUI's `comfy.ldm.qwen_image.model`: classes for isinstance; the networks are in workers."""

from torch import nn


class QwenImageTransformer2DModel(nn.Module): ...


class FeedForward(nn.Module): ...


class GELU(nn.Module): ...


class LastLayer(nn.Module): ...


class QwenTimestepProjEmbeddings(nn.Module): ...
