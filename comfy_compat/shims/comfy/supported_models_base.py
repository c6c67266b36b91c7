"""ComfyUI's `comfy.supported_models_base`."""

from comfy_compat.model_view import ModelConfig


class ClipTarget:
    """A tokenizer's class and an encoder's."""

    def __init__(self, tokenizer, clip):
        self.tokenizer, self.clip, self.params = tokenizer, clip, {}


class BASE(ModelConfig):
    """A model's configuration."""

    unet_extra_config = {"num_heads": -1, "num_head_channels": 64}
    text_encoder_key_prefix = ["text_encoders."]
    vae_key_prefix = ["first_stage_model."]
    clip_prefix = []

    def __init__(self, unet_config=None):
        super().__init__()
        self.unet_config = dict(unet_config or {})

    @classmethod
    def matches(cls, unet_config, state_dict=None):
        return False

    def set_inference_dtype(self, dtype, manual_cast_dtype):
        self.manual_cast_dtype = manual_cast_dtype
