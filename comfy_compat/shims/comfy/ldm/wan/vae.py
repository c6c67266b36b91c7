"""ComfyUI's `comfy.ldm.wan.vae`: classes for isinstance; the networks are in workers."""

from torch import nn


class WanVAE(nn.Module): ...


class CausalConv3d(nn.Module): ...


class RMS_norm(nn.Module): ...


class ResidualBlock(nn.Module): ...


class Resample(nn.Module): ...
