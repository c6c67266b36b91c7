"""ComfyUI's `comfy.ldm.modules.diffusionmodules.model`: classes that packs name."""

from torch import nn


class ResnetBlock(nn.Module): ...


class AttnBlock(nn.Module): ...


class Encoder(nn.Module): ...


class Decoder(nn.Module): ...
