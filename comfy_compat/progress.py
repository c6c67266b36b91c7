"""How far a call is, told as ComfyUI's API has it: numbers, and a PIL picture or an IMAGE tensor."""

import io
from typing import Any

import torch
from PIL import Image

from backend.calling import Picture, current
from backend.types import NodeId

_QUALITY = 95


def report_progress(
    value: float, total: float, node: str | None = None, preview: object = None, size: int | None = None
) -> None:
    """Tell the clients of the running call. Outside of one, nobody listens.

    preview: a PIL image, an IMAGE tensor (its first picture), or ComfyUI's (format, image, longest side).
    size: its longest side at most. Raises: Interrupted.
    """
    call = current()
    if call is None:
        return
    picture = None if preview is None else encoded(preview, size)
    call.line.progress(value, total, picture, None if node is None else NodeId(str(node)))


def encoded(preview: object, size: int | None = None) -> Picture:
    """A preview as a client takes it. Raises: TypeError for what is no picture."""
    if isinstance(preview, tuple) and len(preview) == 3:
        kind, image, size = preview
    else:
        kind, image = "JPEG", preview
    if isinstance(image, torch.Tensor):
        first = image[0] if image.ndim == 4 else image
        image = Image.fromarray((first.float().cpu() * 255).clamp(0, 255).to(torch.uint8).numpy())
    if not isinstance(image, Image.Image):
        raise TypeError(f"a preview is a PIL image or an IMAGE tensor, not a {type(image).__name__}")
    if size:
        image = _shrunk(image, size)
    out = io.BytesIO()
    png = str(kind).upper() == "PNG"
    options: dict[str, Any] = {"compress_level": 1} if png else {"quality": _QUALITY}
    (image if png else image.convert("RGB")).save(out, "PNG" if png else "JPEG", **options)
    return Picture(out.getvalue(), "PNG" if png else "JPEG")


def _shrunk(image: Image.Image, size: int) -> Image.Image:
    if max(image.size) <= size:
        return image
    small = image.copy()
    small.thumbnail((size, size))
    return small
