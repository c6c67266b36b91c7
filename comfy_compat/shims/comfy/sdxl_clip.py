"""ComfyUI's `comfy.sdxl_clip`: classes that packs ask for with isinstance."""

from comfy_compat.clip import PartModel, SDXLClipModel, SDXLRefinerClipModel, Tokenizers  # noqa: F401


class SDXLClipG(PartModel):
    """OpenCLIP's bigG alone."""


SDXLTokenizer = Tokenizers


class SDXLClipGTokenizer(Tokenizers): ...


class StableCascadeClipModel(SDXLRefinerClipModel): ...
