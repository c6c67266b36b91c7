"""ComfyUI's `comfy.ldm.wan.model`: classes for isinstance; the networks are in workers."""

from torch import nn


class WanModel(nn.Module): ...


class WanSelfAttention(nn.Module): ...


class WanT2VCrossAttention(nn.Module): ...


class WanI2VCrossAttention(nn.Module): ...


class VaceWanModel(nn.Module): ...
