"""ComfyUI's V3 `ui`: things that clients show, saved where they can fetch them."""

import json
import os
import random
from io import BytesIO

import folder_paths
import numpy as np
from comfy.cli_args import args
from PIL import Image as PILImage
from PIL.PngImagePlugin import PngInfo

from comfy_api.latest._io import FolderType, _UIOutput

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
_BIT_RATES = {"64k": 64000, "96k": 96000, "128k": 128000, "192k": 192000, "320k": 320000}


class SavedResult(dict):
    """A file, as `ui` names it."""

    def __init__(self, filename, subfolder, type):
        super().__init__(filename=filename, subfolder=subfolder, type=FolderType(type).value)

    @property
    def filename(self):
        return self["filename"]

    @property
    def subfolder(self):
        return self["subfolder"]

    @property
    def type(self):
        return FolderType(self["type"])


class SavedImages(_UIOutput):
    def __init__(self, results, is_animated=False):
        self.results = results
        self.is_animated = is_animated

    def as_dict(self):
        return {"images": self.results, **({"animated": (True,)} if self.is_animated else {})}


class SavedAudios(_UIOutput):
    def __init__(self, results):
        self.results = results

    def as_dict(self):
        return {"audio": self.results}


def _folder(folder_type):
    return folder_paths.get_directory_by_type(FolderType(folder_type).value)


def _temp_prefix():
    return "ComfyUI_temp_" + "".join(random.choices(_LETTERS, k=5))


def _metadata(cls):
    """Prompt and workflow of the node's prompt, by name; none where the server was told to write none."""
    hidden = getattr(cls, "hidden", None)
    if args.disable_metadata or not hidden:
        return {}
    return {**({"prompt": hidden.prompt} if hidden.prompt else {}), **(hidden.extra_pnginfo or {})}


class ImageSaveHelper:
    """Saving of IMAGE tensors."""

    @staticmethod
    def _convert_tensor_to_pil(image_tensor):
        pixels = 255.0 * image_tensor.cpu().numpy()
        return PILImage.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))

    @staticmethod
    def _create_png_metadata(cls):
        about = _metadata(cls)
        if not about:
            return None
        info = PngInfo()
        for name, value in about.items():
            info.add_text(name, json.dumps(value))
        return info

    @staticmethod
    def _create_animated_png_metadata(cls):
        about = _metadata(cls)
        if not about:
            return None
        info = PngInfo()
        for name, value in about.items():
            text = name.encode("latin-1") + b"\0" + json.dumps(value).encode("latin-1")
            info.add(b"comf", text, after_idat=True)
        return info

    @staticmethod
    def _create_webp_metadata(pil_image, cls):
        exif = pil_image.getexif()
        tag = 0x010F  # counts down from Make; the prompt stands under Model
        for name, value in _metadata(cls).items():
            if name == "prompt":
                exif[0x0110] = f"prompt:{json.dumps(value)}"
            else:
                exif[tag] = f"{name}:{json.dumps(value)}"
                tag -= 1
        return exif

    @staticmethod
    def save_images(images, filename_prefix, folder_type, cls, compress_level=4):
        """Save a batch as PNGs."""
        height, width = images[0].shape[:2]
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
            filename_prefix, _folder(folder_type), width, height
        )
        info = ImageSaveHelper._create_png_metadata(cls)
        results = []
        for number, image in enumerate(images):
            file = f"{name.replace('%batch_num%', str(number))}_{counter + number:05}_.png"
            made = ImageSaveHelper._convert_tensor_to_pil(image)
            made.save(os.path.join(folder, file), pnginfo=info, compress_level=compress_level)
            results.append(SavedResult(file, subfolder, folder_type))
        return results

    @staticmethod
    def get_save_images_ui(images, filename_prefix, cls, compress_level=4):
        saved = ImageSaveHelper.save_images(images, filename_prefix, FolderType.output, cls, compress_level)
        return SavedImages(saved)

    @staticmethod
    def _save_animation(images, filename_prefix, folder_type, ending, fps, **options):
        height, width = images[0].shape[:2]
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
            filename_prefix, _folder(folder_type), width, height
        )
        first, *others = [ImageSaveHelper._convert_tensor_to_pil(image) for image in images]
        file = f"{name}_{counter:05}_.{ending}"
        first.save(
            os.path.join(folder, file),
            save_all=True,
            duration=int(1000.0 / fps),
            append_images=others,
            **options,
        )
        return SavedResult(file, subfolder, folder_type)

    @staticmethod
    def save_animated_png(images, filename_prefix, folder_type, cls, fps, compress_level):
        info = ImageSaveHelper._create_animated_png_metadata(cls)
        options = {"pnginfo": info, "compress_level": compress_level}
        return ImageSaveHelper._save_animation(images, filename_prefix, folder_type, "png", fps, **options)

    @staticmethod
    def get_save_animated_png_ui(images, filename_prefix, cls, fps, compress_level):
        saved = ImageSaveHelper.save_animated_png(
            images, filename_prefix, FolderType.output, cls, fps, compress_level
        )
        return SavedImages([saved], is_animated=len(images) > 1)

    @staticmethod
    def save_animated_webp(images, filename_prefix, folder_type, cls, fps, lossless, quality, method):
        exif = ImageSaveHelper._create_webp_metadata(ImageSaveHelper._convert_tensor_to_pil(images[0]), cls)
        options = {"exif": exif, "lossless": lossless, "quality": quality, "method": method}
        return ImageSaveHelper._save_animation(images, filename_prefix, folder_type, "webp", fps, **options)

    @staticmethod
    def get_save_animated_webp_ui(images, filename_prefix, cls, fps, lossless, quality, method):
        saved = ImageSaveHelper.save_animated_webp(
            images, filename_prefix, FolderType.output, cls, fps, lossless, quality, method
        )
        return SavedImages([saved], is_animated=len(images) > 1)


class AudioSaveHelper:
    """Saving of AUDIO, with PyAV."""

    @staticmethod
    def save_audio(audio, filename_prefix, folder_type, cls, format="flac", quality="128k"):
        """Save each waveform of a batch as flac, mp3 or opus."""
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
            filename_prefix, _folder(folder_type)
        )
        texts = {key: json.dumps(value) for key, value in _metadata(cls).items()}
        results = []
        for number, waveform in enumerate(audio["waveform"].cpu()):
            file = f"{name.replace('%batch_num%', str(number))}_{counter + number:05}_.{format}"
            data = _encoded(waveform, audio["sample_rate"], format, quality, texts)
            with open(os.path.join(folder, file), "wb") as out:
                out.write(data)
            results.append(SavedResult(file, subfolder, folder_type))
        return results

    @staticmethod
    def get_save_audio_ui(audio, filename_prefix, cls, format="flac", quality="128k"):
        saved = AudioSaveHelper.save_audio(audio, filename_prefix, FolderType.output, cls, format, quality)
        return SavedAudios(saved)


def _encoded(waveform, rate, kind, quality, texts):
    """A waveform [C, T] as the bytes of a file."""
    import av

    if kind == "opus" and rate not in _OPUS_RATES:
        wanted = next((r for r in _OPUS_RATES if r > rate), 48000)
        waveform, rate = _resampled(waveform, rate, wanted), wanted
    out = BytesIO()
    container = av.open(out, mode="w", format=kind)
    container.metadata.update(texts)
    codec = {"opus": "libopus", "mp3": "libmp3lame"}.get(kind, "flac")
    layout = "mono" if waveform.shape[0] == 1 else "stereo"
    stream = container.add_stream(codec, rate=rate, layout=layout)
    if kind == "mp3" and quality == "V0":
        stream.codec_context.qscale = 1
    elif kind != "flac":
        stream.bit_rate = _BIT_RATES.get(quality, 128000)
    packed = waveform.movedim(0, 1).reshape(1, -1).float().numpy()
    frame = av.AudioFrame.from_ndarray(packed, format="flt", layout=layout)
    frame.sample_rate, frame.pts = rate, 0
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
    container.close()
    return out.getvalue()


def _resampled(waveform, rate, wanted):
    """A waveform [C, T] at another rate, by polyphase filtering."""
    import torch
    from scipy.signal import resample_poly

    return torch.from_numpy(resample_poly(waveform.float().numpy(), wanted, rate, axis=1).copy())


class PreviewImage(_UIOutput):
    def __init__(self, image, animated=False, cls=None, **kwargs):
        self.values = ImageSaveHelper.save_images(image, _temp_prefix(), FolderType.temp, cls, 1)
        self.animated = animated

    def as_dict(self):
        return {"images": self.values, "animated": (self.animated,)}


class PreviewMask(PreviewImage):
    def __init__(self, mask, animated=False, cls=None, **kwargs):
        gray = mask.reshape((-1, 1, mask.shape[-2], mask.shape[-1])).movedim(1, -1).expand(-1, -1, -1, 3)
        super().__init__(gray, animated, cls, **kwargs)


class PreviewAudio(_UIOutput):
    def __init__(self, audio, cls=None, **kwargs):
        self.values = AudioSaveHelper.save_audio(audio, _temp_prefix(), FolderType.temp, cls)

    def as_dict(self):
        return {"audio": self.values}


class PreviewVideo(_UIOutput):
    def __init__(self, values, **kwargs):
        self.values = values

    def as_dict(self):
        return {"images": self.values, "animated": (True,)}


class PreviewUI3D(_UIOutput):
    def __init__(self, model_file, camera_info, **kwargs):
        self.model_file = model_file
        self.camera_info = camera_info

    def as_dict(self):
        return {"result": [self.model_file, self.camera_info]}


class PreviewText(_UIOutput):
    def __init__(self, value, **kwargs):
        self.value = value

    def as_dict(self):
        return {"text": (self.value,)}
