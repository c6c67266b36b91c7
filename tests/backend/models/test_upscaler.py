import sys
from importlib.util import find_spec

import pytest
import torch
from safetensors.torch import save_file

from backend.components import File, Weights
from backend.errors import BadFile
from backend.models.header import read_header
from backend.models.upscaler import CompactNet, RrdbNet, detect, load_upscaler, upscale_pixels
from backend.ops import Tiles

CPU = torch.device("cpu")


def weights_of(path) -> Weights:
    stat = path.stat()
    return Weights("upscaler", "d", (File(str(path), stat.st_size, stat.st_mtime_ns, stat.st_ino),))


def esrgan(names="new", channels=3, ups=2, blocks=2, growth=4) -> dict[str, torch.Tensor]:
    """Weights of a narrow ESRGAN by the names of BasicSR, or of the first release."""
    random = torch.Generator().manual_seed(0)
    shapes = {"conv_first": (8, channels), "conv_body": (8, 8), "conv_hr": (8, 8), "conv_last": (3, 8)}
    shapes |= {f"conv_up{n + 1}": (8, 8) for n in range(ups)}
    for block in range(blocks):
        for dense in (1, 2, 3):
            for conv in range(5):
                out = growth if conv < 4 else 8
                shapes[f"body.{block}.rdb{dense}.conv{conv + 1}"] = (out, 8 + growth * conv)
    renamed = {"conv_first": "model.0", "conv_body": f"model.1.sub.{blocks}"}
    renamed |= {f"conv_up{n + 1}": f"model.{3 * n + 3}" for n in range(ups)}
    renamed |= {"conv_hr": f"model.{3 * ups + 2}", "conv_last": f"model.{3 * ups + 4}"}
    made = {}
    for name, shape in shapes.items():
        if names == "old":
            plain = name.replace("body.", "model.1.sub.").replace("rdb", "RDB")
            name = f"{plain}.0" if name.startswith("body.") else renamed[name]
        made[f"{name}.weight"] = torch.randn((*shape, 3, 3), generator=random) * 0.1
        made[f"{name}.bias"] = torch.randn(shape[0], generator=random) * 0.1
    return made


def saved(tmp_path, tensors, name="up.safetensors"):
    path = tmp_path / name
    save_file(tensors, path)
    return path


def enlarged(path, pixels, **how):
    return upscale_pixels(load_upscaler(weights_of(path), CPU, torch.float32), pixels, **how)


def test_both_manners_of_naming_are_one_network(tmp_path):
    pixels = torch.rand(2, 9, 7, 3)
    new = enlarged(saved(tmp_path, esrgan("new")), pixels)
    old = enlarged(saved(tmp_path, esrgan("old"), "old.safetensors"), pixels)
    assert new.shape == (2, 36, 28, 3)
    assert torch.equal(new, old)
    assert new.std() > 0.01


@pytest.mark.parametrize(("channels", "scale"), [(3, 4), (12, 2), (48, 1)])
def test_a_network_that_folds_pixels_first_enlarges_less(tmp_path, channels, scale):
    path = saved(tmp_path, esrgan(channels=channels))
    layout = detect(read_header(str(path)))
    assert isinstance(layout, RrdbNet)
    assert (layout.scale, layout.channels) == (scale, 3)
    assert enlarged(path, torch.rand(1, 5, 3, 3)).shape == (1, 5 * scale, 3 * scale, 3)


def test_the_compact_network_adds_to_repeated_pixels_also_in_tiles(tmp_path):
    zeros = {"body.0.weight": torch.zeros(8, 3, 3, 3), "body.0.bias": torch.zeros(8)}
    zeros |= {"body.1.weight": torch.ones(8)}
    zeros |= {"body.2.weight": torch.zeros(12, 8, 3, 3), "body.2.bias": torch.zeros(12)}
    path = saved(tmp_path, zeros)
    assert detect(read_header(str(path))) == CompactNet(3, 3, 8, 1, 2)
    pixels = torch.rand(1, 60, 40, 3)
    larger = pixels.repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert torch.equal(enlarged(path, pixels), larger)
    assert torch.allclose(enlarged(path, pixels, tiles=Tiles(32, 20)), larger, atol=1e-6)


def test_a_pickle_may_hold_its_weights_under_a_key(tmp_path):
    path = tmp_path / "up.pth"
    torch.save({"params_ema": esrgan(ups=1), "params": esrgan(ups=2)}, path)
    assert enlarged(path, torch.rand(1, 4, 5, 3)).shape == (1, 8, 10, 3)


def test_a_picture_of_other_channels_is_refused(tmp_path):
    with pytest.raises(ValueError, match="3 channels, not 4"):
        enlarged(saved(tmp_path, esrgan()), torch.rand(1, 4, 4, 4))


@pytest.mark.skipif(find_spec("spandrel") is None, reason="the extra `upscale` is not installed")
def test_other_networks_are_read_by_spandrel_without_torchvision(tmp_path):
    plus = esrgan("old", ups=1, growth=32)
    for dense in (f"{block}.RDB{number}" for block in range(2) for number in (1, 2, 3)):
        plus[f"model.1.sub.{dense}.conv1x1.weight"] = torch.zeros(32, 8, 1, 1)
    assert enlarged(saved(tmp_path, plus), torch.rand(1, 6, 6, 3)).shape == (1, 12, 12, 3)
    assert find_spec("torchvision") is not None or "torchvision" not in sys.modules


def test_what_is_no_upscaler_is_named(tmp_path):
    path = saved(tmp_path, {"some.weight": torch.zeros(2, 2)})
    with pytest.raises(BadFile, match=r"up\.safetensors"):
        enlarged(path, torch.rand(1, 4, 4, 3))
