"""The demo checkpoint: an ordinary SD1.5 file to the loaders, and never in a user's way."""

import subprocess
import sys

from backend.models.family import identify
from backend.models.header import read_header
from scripts.demo import Size, write_checkpoint

SMALL = Size(unet=32, levels=(1, 1), attends=(False, True), text_width=64, text_layers=1)


def test_it_is_identified_as_sd15_with_the_sizes_asked_for(tmp_path):
    write_checkpoint(tmp_path / "demo.safetensors", size=SMALL)
    family, layout, *_ = identify(read_header(str(tmp_path / "demo.safetensors")))
    assert family.name == "sd15"
    assert (layout.in_channels, layout.context) == (4, 64)


def test_equal_seeds_give_equal_files_and_another_denoiser_keeps_the_rest(tmp_path):
    first, again, other = (tmp_path / f"{name}.safetensors" for name in ("first", "again", "other"))
    write_checkpoint(first, size=SMALL)
    write_checkpoint(again, size=SMALL)
    write_checkpoint(other, size=SMALL, unet_seed=1)
    assert first.read_bytes() == again.read_bytes()
    assert first.read_bytes() != other.read_bytes()
    whole, half = first.read_bytes(), len(first.read_bytes()) // 2
    assert whole[:half] == other.read_bytes()[:half]  # text encoder and VAE come first in the file, by name


def test_it_is_not_made_where_the_user_has_a_checkpoint(tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "mine.ckpt").touch()
    subprocess.run([sys.executable, "scripts/demo.py", str(tmp_path), "--unless-any"], check=True)
    assert [p.name for p in tmp_path.iterdir()] == ["own"]
