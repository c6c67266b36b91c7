"""What ComfyUI's own module `nodes` holds. Our package of that name asks here (`nodes/__init__.py`)."""

MAX_RESOLUTION = 16384
EXTENSION_WEB_DIRS = bridge.web
LOADED_MODULE_DIRS = {}
NODE_CLASS_MAPPINGS = bridge.classes
NODE_DISPLAY_NAME_MAPPINGS = bridge.display_names
