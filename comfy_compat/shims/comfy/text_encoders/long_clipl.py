"""ComfyUI's `comfy.text_encoders.long_clipl`."""


def model_options_long_clip(sd, tokenizer_data, model_options):
    """Longer CLIP-L encoders are told by their file."""
    return tokenizer_data, model_options
