"""Textual inversion: files of word vectors, in the forms they are found in."""

from collections.abc import Mapping

import torch
from torch import Tensor

from backend.errors import BadFile
from backend.models.pickles import is_pickle, load_pickle
from backend.models.weights import open_model


def load_embedding(path: str, width: int, key: str = "clip_l") -> Tensor:
    """The vectors of an embedding file for an encoder of this width: float32 [n, width].

    key: the encoder's name in files that serve several (`clip_l`, `clip_g`).
    Raises: BadFile where the file is damaged, or has no vectors of that width.
    """
    vectors = _pick(_tensors(path), key)
    if vectors is None or vectors.ndim == 0 or vectors.shape[-1] != width:
        shape = "none" if vectors is None else list(vectors.shape)
        remedy = "Use an embedding that was made for this kind of model."
        raise BadFile(path, f"it has no word vectors of width {width} (found: {shape})", remedy)
    return vectors.reshape(-1, width).to(torch.float32)


def _tensors(path: str) -> dict[str, Tensor]:
    if not is_pickle(path):
        return dict(open_model(path).tensors())
    content = load_pickle(path)
    named = content.get("string_to_param", content) if isinstance(content, Mapping) else {}
    return {str(name): value.detach() for name, value in named.items() if isinstance(value, Tensor)}


def _pick(tensors: Mapping[str, Tensor], key: str) -> Tensor | None:
    """The named encoder's vectors; bundled ones joined; or else whatever stands first."""
    if key in tensors:
        return tensors[key]
    for ending in (".string_to_param.*", f".{key}"):
        bundled = [v for n, v in tensors.items() if n.startswith("bundle_emb.") and n.endswith(ending)]
        if bundled:
            return torch.cat(bundled)
    return next((tensor for tensor in tensors.values() if tensor.is_floating_point()), None)
