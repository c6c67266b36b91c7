"""ComfyUI's `comfy.text_encoders.flux`: classes that packs name."""

from comfy_compat.clip import StageModel, Tokenizers


class FluxClipModel(StageModel): ...


class FluxTokenizer(Tokenizers): ...


def flux_clip(dtype_t5=None, t5xxl_scaled_fp8=None):
    """The class of Flux's encoders."""
    return FluxClipModel
