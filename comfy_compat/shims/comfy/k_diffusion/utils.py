"""ComfyUI's `comfy.k_diffusion.utils`."""

from pathlib import Path

from PIL import Image


class FolderOfImages:
    """The pictures below a folder."""

    IMG_EXTENSIONS = {".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"}

    def __init__(self, root, transform=None):
        self.root = Path(root)
        self.transform = transform or (lambda image: image)
        self.paths = sorted(p for p in self.root.rglob("*") if p.suffix.lower() in self.IMG_EXTENSIONS)

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, key):
        with open(self.paths[key], "rb") as file:
            return (self.transform(Image.open(file).convert("RGB")),)


def append_dims(x, target_dims):
    """A tensor with axes of size 1 behind, up to so many."""
    return x[(...,) + (None,) * (target_dims - x.ndim)]
