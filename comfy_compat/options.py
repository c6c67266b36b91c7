"""Settings as ComfyUI's namespace of options has them."""

from argparse import Namespace
from enum import Enum

from backend.settings import Settings


class LatentPreviewMethod(Enum):
    """How previews of latents are made."""

    NoPreviews = "none"
    Auto = "auto"
    Latent2RGB = "latent2rgb"
    TAESD = "taesd"

    @classmethod
    def from_string(cls, value: str) -> "LatentPreviewMethod | None":
        return next((member for member in cls if member.value == value), None)


class PerformanceFeature(Enum):
    """What --fast may name."""

    Fp16Accumulation = "fp16_accumulation"
    Fp8MatrixMultiplication = "fp8_matrix_mult"
    CublasOps = "cublas_ops"
    AutoTune = "autotune"


# Switches that change nothing here; packs read them all the same.
_OFF = """
    auto_launch disable_auto_launch cuda_malloc disable_cuda_malloc fp32_unet fp64_unet bf16_unet fp16_unet
    fp8_e4m3fn_unet fp8_e5m2_unet fp8_e8m0fnu_unet fp16_vae fp32_vae bf16_vae cpu_vae fp8_e4m3fn_text_enc
    fp8_e5m2_text_enc fp16_text_enc fp32_text_enc bf16_text_enc force_channels_last disable_ipex_optimize
    supports_fp8_compute cache_classic cache_none use_split_cross_attention use_quad_cross_attention
    use_pytorch_cross_attention use_sage_attention use_flash_attention disable_xformers
    force_upcast_attention dont_upcast_attention gpu_only highvram normalvram lowvram novram async_offload
    force_non_blocking disable_smart_memory deterministic mmap_torch_files disable_mmap dont_print_server
    quick_test_for_ci windows_standalone_build disable_api_nodes enable_manager
"""


def namespace(settings: Settings) -> Namespace:
    """The options, mutable as packs expect them to be."""
    known = Namespace(**dict.fromkeys(_OFF.split(), False))
    vars(known).update(
        listen=",".join(settings.listen),
        port=settings.port,
        tls_keyfile=_text(settings.tls_keyfile),
        tls_certfile=_text(settings.tls_certfile),
        enable_cors_header=settings.enable_cors_header,
        max_upload_size=settings.max_upload_size,
        base_directory=str(settings.base_directory),
        extra_model_paths_config=[[str(path)] for path in settings.extra_model_paths] or None,
        output_directory=_text(settings.output_directory),
        temp_directory=_text(settings.temp_directory),
        input_directory=_text(settings.input_directory),
        user_directory=_text(settings.user_directory),
        front_end_root=_text(settings.front_end_root),
        front_end_version="comfyanonymous/ComfyUI@latest",
        enable_compress_response_body=settings.compress_responses,
        multi_user=settings.multi_user,
        preview_method=LatentPreviewMethod(settings.preview_method),
        preview_size=settings.preview_size,
        disable_metadata=settings.disable_metadata,
        cpu=settings.cpu,
        force_fp32=settings.precision == "fp32",
        force_fp16=settings.precision == "fp16",
        cuda_device=_first(settings.cuda_devices),
        default_device=None,
        directml=None,
        oneapi_device_selector=None,
        reserve_vram=None,
        cache_lru=0,
        cache_ram=0,
        default_hashing_function="sha256",
        fast=set(),
        disable_all_custom_nodes=settings.disable_all_custom_nodes,
        whitelist_custom_nodes=list(settings.whitelist_custom_nodes),
        verbose=settings.verbose,
        log_stdout=settings.log_stdout,
        comfy_api_base="https://api.comfy.org",
        database_url="",
    )
    return known


def _text(path: object) -> str | None:
    return None if path is None else str(path)


def _first(devices: tuple[int, ...] | None) -> int | None:
    return devices[0] if devices else None
