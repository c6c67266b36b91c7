"""The built-in nodes. `catalogue.py` makes a registry of them."""

# The modules that hold them, in menu order.
BUILTIN = (
    "nodes.loaders",
    "nodes.conditioning",
    "nodes.latent",
    "nodes.latent_batch",
    "nodes.vae",
    "nodes.sampling",
    "nodes.schedules",
    "nodes.image",
    "nodes.image_files",
    "nodes.latent_files",
    "nodes.primitive",
    "nodes.text",
)
