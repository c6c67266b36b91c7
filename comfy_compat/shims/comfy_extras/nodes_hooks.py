"""ComfyUI's `comfy_extras.nodes_hooks`: its nodes that the server has, as classes."""

from comfy_compat.builtin_classes import classes_of

globals().update(classes_of(__name__, bridge))
