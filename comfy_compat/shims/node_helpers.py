"""ComfyUI's `node_helpers`."""

import hashlib

import torch
from comfy.cli_args import args
from PIL import ImageFile, UnidentifiedImageError


def conditioning_set_values(conditioning, values={}, append=False):
    """A copy of a CONDITIONING with keys set in every dict. append: added to what is there."""
    made = []
    for tensor, options in conditioning:
        changed = options.copy()
        for key, value in values.items():
            old = changed.get(key)
            changed[key] = old + value if append and old is not None else value
        made.append([tensor, changed])
    return made


def pillow(fn, arg):
    """fn(arg); once more, with broken files let through, where Pillow refuses one."""
    try:
        return fn(arg)
    except (OSError, UnidentifiedImageError, ValueError):
        before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, True
        try:
            return fn(arg)
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = before


def hasher():
    """The hash function that duplicates are found by."""
    return getattr(hashlib, args.default_hashing_function)


def string_to_torch_dtype(string):
    return {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}.get(string)


def image_alpha_fix(destination, source):
    """Two images with as many channels as the first; an alpha that is added is opaque."""
    have, want = source.shape[-1], destination.shape[-1]
    if want < have:
        return destination, source[..., :want]
    if want > have:
        destination = torch.nn.functional.pad(destination, (0, 1))
        destination[..., -1] = 1.0
    return destination, source
