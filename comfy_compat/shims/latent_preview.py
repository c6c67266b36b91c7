"""ComfyUI's `latent_preview`: small pictures of latents."""

import comfy.utils
import torch
from comfy.cli_args import LatentPreviewMethod, args
from comfy.taesd.taesd import TAESD  # noqa: F401  # packs import it from here
from PIL import Image

MAX_PREVIEW_RESOLUTION = args.preview_size


def preview_to_image(latent_image):
    """[H, W, 3] from -1 to 1 as a picture."""
    pixels = ((latent_image + 1.0) / 2.0).clamp(0, 1).mul(255)
    return Image.fromarray(pixels.to("cpu", torch.uint8).numpy())


class LatentPreviewer:
    def decode_latent_to_preview(self, x0):
        """A PIL image of the first latent."""

    def decode_latent_to_preview_image(self, preview_format, x0):
        return ("JPEG", self.decode_latent_to_preview(x0), MAX_PREVIEW_RESOLUTION)


class TAESDPreviewerImpl(LatentPreviewer):
    def __init__(self, taesd):
        self.taesd = taesd

    def decode_latent_to_preview(self, x0):
        return preview_to_image(self.taesd.decode(x0[:1])[0].movedim(0, 2))


class Latent2RGBPreviewer(LatentPreviewer):
    def __init__(self, latent_rgb_factors, latent_rgb_factors_bias=None):
        self.latent_rgb_factors = torch.tensor(latent_rgb_factors, device="cpu").transpose(0, 1)
        bias = latent_rgb_factors_bias
        self.latent_rgb_factors_bias = None if bias is None else torch.tensor(bias, device="cpu")

    def decode_latent_to_preview(self, x0):
        factors, bias = self.latent_rgb_factors.to(x0), self.latent_rgb_factors_bias
        first = x0[0, :, 0] if x0.ndim == 5 else x0[0]
        colors = torch.nn.functional.linear(
            first.movedim(0, -1), factors, None if bias is None else bias.to(x0)
        )
        return preview_to_image(colors)


def get_previewer(device, latent_format):
    """What makes previews of a format, by the method that the server was started with; None for none."""
    if args.preview_method == LatentPreviewMethod.NoPreviews or latent_format is None:
        return None
    if latent_format.latent_rgb_factors is None:
        return None
    return Latent2RGBPreviewer(latent_format.latent_rgb_factors, latent_format.latent_rgb_factors_bias)


def prepare_callback(model, steps, x0_output_dict=None):
    """callback(step, x0, x, total_steps), which shows progress and previews and keeps x0."""
    previewer = get_previewer(model.load_device, model.model.latent_format)
    bar = comfy.utils.ProgressBar(steps)

    def callback(step, x0, x, total_steps):
        if x0_output_dict is not None:
            x0_output_dict["x0"] = x0
        preview = None if previewer is None else previewer.decode_latent_to_preview_image("JPEG", x0)
        bar.update_absolute(step + 1, total_steps, preview)

    return callback
