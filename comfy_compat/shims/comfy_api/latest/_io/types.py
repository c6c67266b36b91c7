"""Wire types without widgets."""

from typing import Any, TypedDict

import torch

from comfy_api.latest._io.wires import ComfyTypeIO, comfytype


@comfytype(io_type="LATENT")
class Latent(ComfyTypeIO):
    class LatentDict(TypedDict, total=False):
        samples: torch.Tensor
        noise_mask: torch.Tensor
        batch_index: list[int]
        type: str

    Type = LatentDict


@comfytype(io_type="CONDITIONING")
class Conditioning(ComfyTypeIO):
    class PooledDict(TypedDict, total=False):
        pooled_output: torch.Tensor

    CondList = list[tuple[torch.Tensor, dict]]
    Type = CondList


@comfytype(io_type="AUDIO")
class Audio(ComfyTypeIO):
    class AudioDict(TypedDict):
        waveform: torch.Tensor
        sample_rate: int

    Type = AudioDict


def _wire(name, io_type, type_=Any):
    return comfytype(io_type)(type(name, (ComfyTypeIO,), {"Type": type_, "__module__": __name__}))


Image = _wire("Image", "IMAGE", torch.Tensor)
WanCameraEmbedding = _wire("WanCameraEmbedding", "WAN_CAMERA_EMBEDDING", torch.Tensor)
Mask = _wire("Mask", "MASK", torch.Tensor)
Sampler = _wire("Sampler", "SAMPLER")
Sigmas = _wire("Sigmas", "SIGMAS", torch.Tensor)
Noise = _wire("Noise", "NOISE", torch.Tensor)
Guider = _wire("Guider", "GUIDER")
Clip = _wire("Clip", "CLIP")
ControlNet = _wire("ControlNet", "CONTROL_NET")
Vae = _wire("Vae", "VAE")
Model = _wire("Model", "MODEL")
ClipVision = _wire("ClipVision", "CLIP_VISION")
ClipVisionOutput = _wire("ClipVisionOutput", "CLIP_VISION_OUTPUT")
StyleModel = _wire("StyleModel", "STYLE_MODEL")
Gligen = _wire("Gligen", "GLIGEN")
UpscaleModel = _wire("UpscaleModel", "UPSCALE_MODEL")
LatentUpscaleModel = _wire("LatentUpscaleModel", "LATENT_UPSCALE_MODEL")
Video = _wire("Video", "VIDEO")
SVG = _wire("SVG", "SVG")
LoraModel = _wire("LoraModel", "LORA_MODEL", dict[str, torch.Tensor])
LossMap = _wire("LossMap", "LOSS_MAP")
Voxel = _wire("Voxel", "VOXEL")
Mesh = _wire("Mesh", "MESH")
Hooks = _wire("Hooks", "HOOKS")
HookKeyframes = _wire("HookKeyframes", "HOOK_KEYFRAMES")
TimestepsRange = _wire("TimestepsRange", "TIMESTEPS_RANGE", tuple[int, int])
LatentOperation = _wire("LatentOperation", "LATENT_OPERATION")
FlowControl = _wire("FlowControl", "FLOW_CONTROL", tuple[str, Any])
Accumulation = _wire("Accumulation", "ACCUMULATION")
Load3DCamera = _wire("Load3DCamera", "LOAD3D_CAMERA")
Load3D = _wire("Load3D", "LOAD_3D")
Load3DAnimation = _wire("Load3DAnimation", "LOAD_3D_ANIMATION")
Photomaker = _wire("Photomaker", "PHOTOMAKER")
Point = _wire("Point", "POINT")
FaceAnalysis = _wire("FaceAnalysis", "FACE_ANALYSIS")
BBOX = _wire("BBOX", "BBOX")
BoundingBox = _wire("BoundingBox", "BOUNDING_BOX")
SEGS = _wire("SEGS", "SEGS")
Tracks = _wire("Tracks", "TRACKS")
AnyType = _wire("AnyType", "*")
MODEL_PATCH = _wire("MODEL_PATCH", "MODEL_PATCH")
ModelPatch = MODEL_PATCH
AudioEncoder = _wire("AudioEncoder", "AUDIO_ENCODER")
AudioEncoderOutput = _wire("AudioEncoderOutput", "AUDIO_ENCODER_OUTPUT")
