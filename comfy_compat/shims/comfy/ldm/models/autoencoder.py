"""ComfyUI's `comfy.ldm.models.autoencoder`: classes that packs name."""

from torch import nn


class AutoencoderKL(nn.Module): ...


class AutoencodingEngine(nn.Module): ...
