"""A small checkpoint in the ordinary layout."""

from pathlib import Path

import pytest

from backend.settings import Settings
from backend.storage import Storage
from scripts.demo import Size, write_checkpoint


@pytest.fixture(scope="session")
def tiny_settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The settings of a server whose base directory holds `tiny.safetensors`, a checkpoint."""
    base = tmp_path_factory.mktemp("base")
    folder = base / "models" / "checkpoints"
    folder.mkdir(parents=True)
    write_checkpoint(
        Path(folder / "tiny.safetensors"), size=Size(unet=32, text_width=64, text_layers=2, vae=32)
    )
    settings = Settings(base_directory=base, cpu=True, threads=1)
    Storage(settings).prepare()
    return settings
