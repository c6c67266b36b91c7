"""What ComfyUI's own module `nodes` holds. Our package of that name asks here (`nodes/__init__.py`)."""

import json
import os
import random

import comfy.model_management
import comfy.sample
import comfy.samplers
import folder_paths
import latent_preview
import numpy as np
import torch
from comfy.cli_args import args
from node_helpers import conditioning_set_values  # noqa: F401
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from comfy_compat.builtin_classes import by_node_id, classes_of, known_classes

MAX_RESOLUTION = 16384
EXTENSION_WEB_DIRS = bridge.web
LOADED_MODULE_DIRS = bridge.module_dirs
NODE_DISPLAY_NAME_MAPPINGS = bridge.display_names
NODE_CLASS_MAPPINGS = bridge.classes
for _name, _class in by_node_id(bridge).items():
    NODE_CLASS_MAPPINGS.setdefault(_name, _class)
for _spec in bridge.registry:
    NODE_DISPLAY_NAME_MAPPINGS.setdefault(_spec.name, _spec.display_name or _spec.name)
globals().update(classes_of("nodes", bridge))


def before_node_execution():
    comfy.model_management.throw_exception_if_processing_interrupted()


def interrupt_processing(value=True):
    comfy.model_management.interrupt_current_processing(value)


def common_ksampler(
    model,
    seed,
    steps,
    cfg,
    sampler_name,
    scheduler,
    positive,
    negative,
    latent,
    denoise=1.0,
    disable_noise=False,
    start_step=None,
    last_step=None,
    force_full_denoise=False,
):
    """A run as KSampler makes it: (LATENT,)."""
    samples = comfy.sample.fix_empty_latent_channels(model, latent["samples"])
    if disable_noise:
        noise = torch.zeros(samples.size(), dtype=samples.dtype, layout=samples.layout, device="cpu")
    else:
        noise = comfy.sample.prepare_noise(samples, seed, latent.get("batch_index"))
    made = comfy.sample.sample(
        model,
        noise,
        steps,
        cfg,
        sampler_name,
        scheduler,
        positive,
        negative,
        samples,
        denoise=denoise,
        disable_noise=disable_noise,
        start_step=start_step,
        last_step=last_step,
        force_full_denoise=force_full_denoise,
        noise_mask=latent.get("noise_mask"),
        callback=latent_preview.prepare_callback(model, steps),
        seed=seed,
    )
    return ({**latent, "samples": made},)


class SaveImage:
    """Saving, in a form that packs subclass: they set `output_dir`, `type` and `prefix_append`."""

    def __init__(self):
        self.type, self.output_dir = "output", folder_paths.get_output_directory()
        self.prefix_append, self.compress_level = "", 4

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"images": ("IMAGE",), "filename_prefix": ("STRING", {"default": "ComfyUI"})},
            "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
        }

    RETURN_TYPES = ()
    FUNCTION = "save_images"
    OUTPUT_NODE = True
    CATEGORY = "image"

    def save_images(self, images, filename_prefix="ComfyUI", prompt=None, extra_pnginfo=None):
        """PNGs below `output_dir`, with prompt and workflow in them."""
        height, width = images[0].shape[:2]
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
            filename_prefix + self.prefix_append, self.output_dir, width, height
        )
        results = []
        for number, image in enumerate(images):
            pixels = np.clip(255.0 * image.cpu().numpy(), 0, 255).astype(np.uint8)
            info = None
            if not args.disable_metadata:
                info = PngInfo()
                texts = {} if prompt is None else {"prompt": prompt}
                for key, value in {**texts, **(extra_pnginfo or {})}.items():
                    info.add_text(key, json.dumps(value))
            file = f"{name.replace('%batch_num%', str(number))}_{counter:05}_.png"
            Image.fromarray(pixels).save(
                os.path.join(folder, file), pnginfo=info, compress_level=self.compress_level
            )
            results.append({"filename": file, "subfolder": subfolder, "type": self.type})
            counter += 1
        return {"ui": {"images": results}}


class PreviewImage(SaveImage):
    """As SaveImage, in the temp folder."""

    def __init__(self):
        self.output_dir = folder_paths.get_temp_directory()
        self.type = "temp"
        self.prefix_append = "_temp_" + "".join(random.choices("abcdefghijklmnopqrstuvwxyz", k=5))
        self.compress_level = 1

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"images": ("IMAGE",)},
            "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
        }


_METHODS = {
    "ImageScale": ("upscale_methods", ["nearest-exact", "bilinear", "area", "bicubic", "lanczos"]),
    "ImageScaleBy": ("upscale_methods", ["nearest-exact", "bilinear", "area", "bicubic", "lanczos"]),
    "LatentUpscale": ("upscale_methods", ["nearest-exact", "bilinear", "area", "bicubic", "bislerp"]),
    "LatentUpscaleBy": ("upscale_methods", ["nearest-exact", "bilinear", "area", "bicubic", "bislerp"]),
}
for _name, (_attribute, _listed) in _METHODS.items():
    if _name in globals():
        setattr(globals()[_name], _attribute, _listed)
        globals()[_name].crop_methods = ["disabled", "center"]
for _name, (_node, *_) in known_classes()["nodes"].items():
    if _node in NODE_CLASS_MAPPINGS and _name in globals():
        NODE_CLASS_MAPPINGS[_node] = globals()[_name]
if "LoadImage" in NODE_CLASS_MAPPINGS:
    LoadImage.VALIDATE_INPUTS = classmethod(
        lambda cls, image: folder_paths.exists_annotated_filepath(image) or f"Invalid image file: {image}"
    )
