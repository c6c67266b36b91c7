"""ComfyUI's `utils.extra_config`: more model folders from a YAML file."""

from pathlib import Path

import folder_paths

from backend.storage import extra_folders


def load_extra_path_config(yaml_path):
    """Add the folders that a file names."""
    for kind, folder, first in extra_folders(Path(yaml_path)):
        folder_paths.add_model_folder_path(kind, str(folder), first)
