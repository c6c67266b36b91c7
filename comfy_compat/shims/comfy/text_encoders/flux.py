"""ComfyUI's `comfy.text_encoders.flux`: classes that packs name."""

from comfy_compat.clip import StageModel, Tokenizers


class FluxClipModel(StageModel): ...


class FluxTokenizer(Tokenizers): ...
