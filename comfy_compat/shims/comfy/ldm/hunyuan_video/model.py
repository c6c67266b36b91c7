"""ComfyUI's `comfy.ldm.hunyuan_video.model`: classes for isinstance; the networks are in workers."""

from torch import nn


class HunyuanVideo(nn.Module): ...
