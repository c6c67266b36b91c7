"""State dicts and the files they come from: the server knows weights by file."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file


class StateDict(dict[str, Any]):
    """The tensors of a file. source: its path, for as long as nothing was put in or taken out."""

    def __init__(self, tensors: Mapping[str, Any], source: str) -> None:
        super().__init__(tensors)
        self.source = source
        self._ids = {name: id(tensor) for name, tensor in tensors.items()}

    @property
    def unchanged(self) -> bool:
        return {name: id(tensor) for name, tensor in self.items()} == self._ids


def file_of_tensors(tensors: Mapping[str, Any], folder: Path) -> str:
    """Where tensors can be read: their own file, or one that is written below `folder`, by their content."""
    if isinstance(tensors, StateDict) and tensors.unchanged:
        return tensors.source
    kept = {name: t.detach().cpu().contiguous() for name, t in tensors.items() if isinstance(t, torch.Tensor)}
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(kept):
        digest.update(name.encode())
        digest.update(kept[name].flatten().view(torch.uint8).numpy().tobytes())
    path = folder / "weights" / f"{digest.hexdigest()}.safetensors"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: t.clone() for name, t in kept.items()}, str(path))
    return str(path)
