import pytest
import torch
from PIL import Image

from tests.nodes.build import a_storage, names_of, run


@pytest.mark.parametrize(
    ("name", "extra"), [("SaveAnimatedWEBP", {"method": "fastest"}), ("SaveAnimatedPNG", {})]
)
def test_a_batch_becomes_frames(tmp_path, name, extra):
    storage = a_storage(tmp_path)
    images = torch.linspace(0, 1, 3)[:, None, None, None].expand(3, 8, 8, 3)
    result = run(name, storage, images=images, filename_prefix="a/m", fps=5.0, prompt={"1": {}}, **extra)
    assert result.ui["animated"] == [True]
    (file,) = names_of(result)
    with Image.open(storage.output / "a" / file) as saved:
        assert saved.n_frames == 3
        saved.seek(1)
        saved.load()
        assert saved.info["duration"] == 200
    assert b'{"1": {}}' in (storage.output / "a" / file).read_bytes()


def test_nothing_is_not_saved(tmp_path):
    with pytest.raises(ValueError, match="images is an empty batch"):
        run("SaveAnimatedPNG", a_storage(tmp_path), images=torch.zeros(0, 8, 8, 3))
