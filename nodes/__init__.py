"""The built-in nodes. `catalogue.py` makes a registry of them."""

# The modules that hold them, in menu order.
BUILTIN = (
    "nodes.loaders",
    "nodes.old_loaders",
    "nodes.merge",
    "nodes.model_files",
    "nodes.computing",
    "nodes.conditioning",
    "nodes.hooks",
    "nodes.condition_properties",
    "nodes.hook_keyframes",
    "nodes.clip_encoding",
    "nodes.controlnet",
    "nodes.vision",
    "nodes.picture_conditioning",
    "nodes.encode",
    "nodes.flux",
    "nodes.latent",
    "nodes.latent_empty",
    "nodes.latent_batch",
    "nodes.latent_math",
    "nodes.latent_operations",
    "nodes.vae",
    "nodes.sampling",
    "nodes.samplers",
    "nodes.patches",
    "nodes.model_sampling",
    "nodes.model_patch",
    "nodes.guidance",
    "nodes.schedules",
    "nodes.image",
    "nodes.image_edit",
    "nodes.image_filters",
    "nodes.preprocessors",
    "nodes.image_files",
    "nodes.upscale",
    "nodes.animation",
    "nodes.video",
    "nodes.composite",
    "nodes.mask",
    "nodes.latent_files",
    "nodes.primitive",
    "nodes.text",
    "nodes.logic",
)


def __getattr__(name: str) -> object:
    """What custom nodes expect of ComfyUI's module `nodes`: looked up where `install()` said."""
    if "legacy" in globals() and not name.startswith("__"):
        return globals()["legacy"](name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
