"""ComfyUI's `comfy.ldm.lightricks.model`: classes for isinstance; the networks are in workers."""

from torch import nn


class LTXVModel(nn.Module): ...


class BasicTransformerBlock(nn.Module): ...


class CrossAttention(nn.Module): ...


class FeedForward(nn.Module): ...
