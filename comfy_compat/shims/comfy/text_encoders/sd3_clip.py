"""ComfyUI's `comfy.text_encoders.sd3_clip`: classes that packs name."""

from comfy_compat.clip import PartModel, StageModel, Tokenizers


class T5XXLModel(PartModel): ...


class SD3ClipModel(StageModel): ...


class SD3Tokenizer(Tokenizers): ...
