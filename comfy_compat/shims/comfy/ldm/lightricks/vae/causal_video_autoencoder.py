"""ComfyUI's `comfy.ldm.lightricks.vae.causal_video_autoencoder`: classes for isinstance."""

from torch import nn


class Encoder(nn.Module): ...


class Decoder(nn.Module): ...


class ResnetBlock3D(nn.Module): ...


class VideoVAE(nn.Module): ...
