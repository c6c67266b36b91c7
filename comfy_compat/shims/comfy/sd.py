"""ComfyUI's `comfy.sd`: models by their files, as handles of what the server shares."""

import os
from enum import Enum

import comfy.utils
from backend.components import File, LoraUse
from backend.library import Library
from backend.models.text_places import chosen_encoding
from backend.references import Clip, Model, Vae
from comfy import model_detection  # noqa: F401  # packs reach it through here
from comfy_compat.clip import CLIP
from comfy_compat.engine import settled
from comfy_compat.patcher import ModelPatcher
from comfy_compat.vae import VAE as _VAE
from comfy_compat.weight_files import file_of_tensors


class CLIPType(Enum):
    STABLE_DIFFUSION = 1
    STABLE_CASCADE = 2
    SD3 = 3
    STABLE_AUDIO = 4
    HUNYUAN_DIT = 5
    FLUX = 6
    MOCHI = 7
    LTXV = 8
    HUNYUAN_VIDEO = 9
    PIXART = 10
    COSMOS = 11
    LUMINA2 = 12
    WAN = 13
    HIDREAM = 14
    CHROMA = 15
    ACE = 16
    OMNIGEN2 = 17
    QWEN_IMAGE = 18
    HUNYUAN_IMAGE = 19


class StyleModel:
    """A style model of a pack's own."""

    def __init__(self, model, device="cpu"):
        self.model = model


def _library():
    return bridge.services[Library]


def _file(path):
    stat = os.stat(path)
    return File(os.path.abspath(path), stat.st_size, stat.st_mtime_ns, stat.st_ino)


def weights(kind, path):
    """The weights in a file, in a role."""
    library = _library()
    return settled(lambda: library.weights(kind, _file(path)), library)


def file_of(sd):
    """The path of the file that a state dict was read from; others are written to the temp folder."""
    return file_of_tensors(sd, bridge.storage.temp)


class VAE(_VAE):
    """A VAE by its state dict, as packs make one."""

    def __init__(self, sd=None, device=None, config=None, dtype=None, metadata=None, reference=None):
        if reference is None and sd is not None:
            reference = Vae(weights("vae", file_of(sd)))
        super().__init__(reference=reference)


def load_checkpoint_guess_config(
    ckpt_path,
    output_vae=True,
    output_clip=True,
    output_clipvision=False,
    embedding_directory=None,
    output_model=True,
    model_options={},
    te_model_options={},
):
    """(model, clip, vae, None) of a checkpoint."""
    library, file = _library(), _file(ckpt_path)
    model = ModelPatcher.of(Model(weights("denoiser", ckpt_path))) if output_model else None
    vae = _VAE.of(Vae(weights("vae", ckpt_path))) if output_vae else None
    clip = None
    if output_clip:
        encoders = settled(lambda: library.encoders(file), library)
        encoding = settled(lambda: library.encoding(file), library) or "sd15"
        clip = CLIP.of(Clip(encoders, encoding), bridge.storage)
    return model, clip, vae, None


def load_checkpoint(
    config_path=None,
    ckpt_path=None,
    output_vae=True,
    output_clip=True,
    embedding_directory=None,
    state_dict=None,
    config=None,
):
    """(model, clip, vae) of a checkpoint; its configuration is read from its tensors."""
    path = ckpt_path if state_dict is None else file_of(state_dict)
    return load_checkpoint_guess_config(path, output_vae, output_clip)[:3]


def load_state_dict_guess_config(
    sd,
    output_vae=True,
    output_clip=True,
    output_clipvision=False,
    embedding_directory=None,
    output_model=True,
    model_options={},
    te_model_options={},
    metadata=None,
):
    return load_checkpoint_guess_config(
        file_of(sd), output_vae, output_clip, output_clipvision, embedding_directory, output_model
    )


def load_diffusion_model(unet_path, model_options={}):
    """A denoiser from a file of its own."""
    return ModelPatcher.of(Model(weights("denoiser", unet_path)))


def load_diffusion_model_state_dict(sd, model_options={}, metadata=None, **kwargs):
    return load_diffusion_model(file_of(sd))


def load_unet(unet_path, dtype=None):
    return load_diffusion_model(unet_path)


def load_unet_state_dict(sd, dtype=None):
    return load_diffusion_model_state_dict(sd)


def load_clip(ckpt_paths, embedding_directory=None, clip_type=CLIPType.STABLE_DIFFUSION, model_options={}):
    """Text encoders from files of their own."""
    library = _library()
    files = [_file(path) for path in ckpt_paths]
    found = settled(lambda: library.encoders(*files), library)
    name = clip_type.name.lower()
    return CLIP.of(Clip(found, chosen_encoding(name, [w.part for w in found])), bridge.storage)


def load_text_encoder_state_dicts(
    state_dicts=[], embedding_directory=None, clip_type=CLIPType.STABLE_DIFFUSION, model_options={}
):
    return load_clip([file_of(sd) for sd in state_dicts], embedding_directory, clip_type)


def load_lora_for_models(model, clip, lora, strength_model, strength_clip):
    """(model, clip) with a LoRA's state dict applied; either may be None."""
    found = weights("lora", file_of(lora))
    changed = None
    if model is not None:
        changed = model.clone()
        changed.reference = model.reference.with_lora(found, strength_model)
        changed._model = None
    return changed, None if clip is None else clip.with_loras((LoraUse(found, strength_clip),))


def load_bypass_lora_for_models(model, clip, lora, strength_model, strength_clip):
    return load_lora_for_models(model, clip, lora, strength_model, strength_clip)


def save_checkpoint(output_path, model, clip=None, vae=None, clip_vision=None, metadata=None, extra_keys={}):
    """Weights are the workers'; the server's own CheckpointSave writes them."""
    raise NotImplementedError("use the node CheckpointSave: weights are not in the server's memory")


def t5xxl_detect(sd):
    return comfy.utils.weight_dtype(sd)
