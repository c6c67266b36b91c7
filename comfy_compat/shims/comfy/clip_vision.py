"""ComfyUI's `comfy.clip_vision`: pictures for CLIP's image encoders, and what these give."""

import torch

from comfy_compat.vision import ClipVisionModel


class Output:
    """last_hidden_state, penultimate_hidden_states, image_embeds; by attribute and by key."""

    def __getitem__(self, key):
        return getattr(self, key)

    def __setitem__(self, key, item):
        setattr(self, key, item)


def clip_preprocess(
    image,
    size=224,
    mean=[0.48145466, 0.4578275, 0.40821073],
    std=[0.26862954, 0.26130258, 0.27577711],
    crop=True,
):
    """[B, H, W, C] in 0..1 -> [B, 3, size, size], normalised; crop: the middle, else squeezed."""
    image = image[..., :3] if image.shape[3] > 3 else image
    mean, std = (torch.tensor(values, device=image.device, dtype=image.dtype) for values in (mean, std))
    image = image.movedim(-1, 1)
    if tuple(image.shape[2:]) != (size, size):
        target = (size, size)
        if crop:
            factor = size / min(image.shape[2], image.shape[3])
            target = (round(factor * image.shape[2]), round(factor * image.shape[3]))
        image = torch.nn.functional.interpolate(image, size=target, mode="bicubic", antialias=True)
        top, left = (image.shape[2] - size) // 2, (image.shape[3] - size) // 2
        image = image[:, :, top : top + size, left : left + size]
    image = (image * 255.0).clamp(0, 255).round() / 255.0
    return (image - mean.view(3, 1, 1)) / std.view(3, 1, 1)


def load(ckpt_path):
    """A CLIP vision model by its file."""
    return ClipVisionModel.load(ckpt_path)


def load_clipvision_from_sd(sd, prefix="", convert_keys=False):
    import comfy.sd

    return ClipVisionModel.load(comfy.sd.file_of(sd))


def convert_to_transformers(sd, prefix):
    return sd
