"""ComfyUI's `comfy.sd1_clip`: prompts' weights, and the encoders' classes."""

from backend.models.prompt import weigh
from comfy_compat.clip import PartModel, PartTokenizer, SD1ClipModel, StageModel, Tokenizers  # noqa: F401

SDClipModel = PartModel
SDTokenizer = PartTokenizer
SD1Tokenizer = Tokenizers
_ESCAPES = (("\\)", "\0\1", ")"), ("\\(", "\0\2", "("))


class ClipTokenWeightEncoder:
    """Base of encoders that weigh tokens."""


def gen_empty_tokens(special_tokens, length):
    """The tokens of an empty prompt."""
    start, end, pad = (special_tokens.get(name) for name in ("start", "end", "pad"))
    tokens = [] if start is None else [start]
    tokens += [] if end is None else [end]
    return tokens + [pad] * (length - len(tokens))


def escape_important(text):
    for written, stand_in, _ in _ESCAPES:
        text = text.replace(written, stand_in)
    return text


def unescape_important(text):
    for _, stand_in, plain in _ESCAPES:
        text = text.replace(stand_in, plain)
    return text


def token_weights(string, current_weight):
    """[(text, weight)] of a prompt whose parentheses say what matters."""
    return [(text, weight * current_weight) for text, weight in weigh(string)]


def expand_directory_list(directories):
    """Folders with all that are below them."""
    import os

    return [path for folder in directories for path, _, _ in os.walk(folder, followlinks=True)]


def model_options_long_clip(sd, tokenizer_data, model_options):
    return tokenizer_data, model_options
