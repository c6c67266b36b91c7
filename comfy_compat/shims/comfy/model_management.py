"""ComfyUI's `comfy.model_management`: devices, number formats, memory and interrupts.

Weights are the workers' affair: what packs load "onto the device" here is theirs alone, and nothing that they
free takes a model from anybody.
"""

import gc
import platform
import sys
from enum import Enum

import psutil
import torch

from backend.calling import current
from backend.errors import Interrupted as InterruptProcessingException
from comfy.cli_args import args


class VRAMState(Enum):
    DISABLED = 0
    NO_VRAM = 1
    LOW_VRAM = 2
    NORMAL_VRAM = 3
    HIGH_VRAM = 4
    SHARED = 5


class CPUState(Enum):
    GPU = 0
    CPU = 1
    MPS = 2


_CUDA = torch.cuda.is_available() and not args.cpu
_MPS = not _CUDA and not args.cpu and torch.backends.mps.is_available()
vram_state = VRAMState.NORMAL_VRAM if _CUDA else VRAMState.SHARED if _MPS else VRAMState.DISABLED
set_vram_to = vram_state
cpu_state = CPUState.GPU if _CUDA else CPUState.MPS if _MPS else CPUState.CPU
OOM_EXCEPTION = torch.OutOfMemoryError
XFORMERS_VERSION = ""
XFORMERS_IS_AVAILABLE = False
XFORMERS_ENABLED_VAE = False
ENABLE_PYTORCH_ATTENTION = True
DISABLE_SMART_MEMORY = False
FORCE_FP32 = args.force_fp32
WINDOWS = any(platform.win32_ver())
EXTRA_RESERVED_VRAM = 400 * 1024 * 1024
VAE_DTYPES = [torch.float32]
torch_version = torch.version.__version__
lowvram_available = True
directml_enabled = False
xpu_available = False
current_loaded_models = []
total_ram = psutil.virtual_memory().total / (1024 * 1024)


# -- devices -------------------------------------------------------------------------------------


def get_torch_device():
    return (
        torch.device("cuda", torch.cuda.current_device()) if _CUDA else torch.device("mps" if _MPS else "cpu")
    )


def get_torch_device_name(device=None):
    """As system_stats has it."""
    device = get_torch_device() if device is None else device
    if getattr(device, "type", None) == "cuda":
        return f"{device} {torch.cuda.get_device_name(device)} : native"
    return getattr(device, "type", str(device))


def _memory(dev):
    """(free, total, torch's part of the free, torch's part of the total), bytes."""
    if is_device_cuda(dev):
        stats = torch.cuda.memory_stats(dev)
        reserved, active = (int(stats.get(f"{k}_bytes.all.current", 0)) for k in ("reserved", "active"))
        free, total = torch.cuda.mem_get_info(dev)
        return free + reserved - active, total, reserved - active, reserved
    memory = psutil.virtual_memory()
    return memory.available, memory.total, memory.available, memory.total


def get_total_memory(dev=None, torch_total_too=False):
    _, total, _, reserved = _memory(get_torch_device() if dev is None else dev)
    return (total, reserved) if torch_total_too else total


def get_free_memory(dev=None, torch_free_too=False):
    free, _, unused, _ = _memory(get_torch_device() if dev is None else dev)
    return (free, unused) if torch_free_too else free


def is_device_type(device, type):
    return getattr(device, "type", None) == type


def is_device_cpu(device):
    return is_device_type(device, "cpu")


def is_device_mps(device):
    return is_device_type(device, "mps")


def is_device_xpu(device):
    return is_device_type(device, "xpu")


def is_device_cuda(device):
    return is_device_type(device, "cuda")


def is_directml_enabled():
    return False


def is_intel_xpu():
    return False


def is_ascend_npu():
    return False


def is_mlu():
    return False


def is_ixuca():
    return False


def is_nvidia():
    return _CUDA and torch.version.cuda is not None


def is_amd():
    return _CUDA and torch.version.hip is not None


def is_wsl():
    return "microsoft" in platform.uname().release.lower()


def mac_version():
    return tuple(map(int, platform.mac_ver()[0].split("."))) if sys.platform == "darwin" else None


def cpu_mode():
    return cpu_state is CPUState.CPU


def mps_mode():
    return cpu_state is CPUState.MPS


def unet_offload_device():
    return torch.device("cpu")


def unet_inital_load_device(parameters, dtype):
    return torch.device("cpu")


def text_encoder_offload_device():
    return torch.device("cpu")


def text_encoder_device():
    return get_torch_device()


def text_encoder_initial_device(load_device, offload_device, model_size=0):
    return offload_device


def vae_device():
    return get_torch_device()


def vae_offload_device():
    return torch.device("cpu")


def intermediate_device():
    return torch.device("cpu")


def intermediate_dtype():
    return torch.float32


def get_autocast_device(dev):
    return getattr(dev, "type", "cuda")


# -- number formats ------------------------------------------------------------------------------


def dtype_size(dtype):
    """Bytes of one number."""
    return torch.empty((), dtype=dtype).element_size() if isinstance(dtype, torch.dtype) else 4


def get_supported_float8_types():
    return [getattr(torch, name) for name in dir(torch) if name.startswith("float8_")]


FLOAT8_TYPES = get_supported_float8_types()


def supports_dtype(device, dtype):
    return dtype == torch.float32 or (not is_device_cpu(device) and dtype in (torch.float16, torch.bfloat16))


def supports_cast(device, dtype):
    return dtype in (torch.float32, torch.float16, torch.bfloat16) or is_device_cuda(device)


def pick_weight_dtype(dtype, fallback_dtype, device=None):
    """The dtype, or the fallback where it is none, too wide, or can't be cast from."""
    if dtype is None or dtype_size(dtype) > dtype_size(fallback_dtype) or not supports_cast(device, dtype):
        return fallback_dtype
    return dtype


def should_use_fp16(device=None, model_params=0, prioritize_performance=True, manual_cast=False):
    device = get_torch_device() if device is None else device
    return not args.force_fp32 and not is_device_cpu(device)


def should_use_bf16(device=None, model_params=0, prioritize_performance=True, manual_cast=False):
    device = get_torch_device() if device is None else device
    return not args.force_fp32 and is_device_cuda(device) and torch.cuda.is_bf16_supported()


def supports_fp8_compute(device=None):
    return _CUDA and torch.cuda.get_device_capability() >= (8, 9)


def extended_fp16_support():
    return True


def unet_dtype(
    device=None,
    model_params=0,
    supported_dtypes=[torch.float16, torch.bfloat16, torch.float32],
    weight_dtype=None,
):
    """What a denoiser's weights are kept in."""
    if weight_dtype in FLOAT8_TYPES and supports_fp8_compute(device):
        return weight_dtype
    for dtype in supported_dtypes:
        if dtype == torch.float16 and should_use_fp16(device, model_params):
            return dtype
        if dtype == torch.bfloat16 and should_use_bf16(device, model_params):
            return dtype
    return torch.float32


def unet_manual_cast(
    weight_dtype, inference_device, supported_dtypes=[torch.float16, torch.bfloat16, torch.float32]
):
    """What weights are cast to for computing; None where they are computed with as they are."""
    if weight_dtype in (torch.float32, torch.float64):
        return None
    wanted = unet_dtype(inference_device, supported_dtypes=supported_dtypes)
    return None if wanted == weight_dtype else wanted


def text_encoder_dtype(device=None):
    return torch.float32 if is_device_cpu(device) else torch.float16


def vae_dtype(device=None, allowed_dtypes=[]):
    for dtype in allowed_dtypes:
        if dtype == torch.bfloat16 and should_use_bf16(device):
            return dtype
    return torch.float32


def force_upcast_attention_dtype():
    return None


def force_channels_last():
    return False


# -- moving --------------------------------------------------------------------------------------


def device_supports_non_blocking(device):
    return is_device_cuda(device)


def device_should_use_non_blocking(device):
    return False


def get_offload_stream(device):
    return None


def sync_stream(device, stream):
    """There are no streams of ours to wait for."""


def cast_to(weight, dtype=None, device=None, non_blocking=False, copy=False, stream=None):
    """A tensor on a device in a dtype; copy: a new one in any case."""
    return weight.to(device=device, dtype=dtype, non_blocking=non_blocking, copy=copy)


def cast_to_device(tensor, device, dtype, copy=False):
    return cast_to(tensor, dtype=dtype, device=device, copy=copy)


# -- attention kernels ---------------------------------------------------------------------------


def xformers_enabled():
    return False


def xformers_enabled_vae():
    return False


def sage_attention_enabled():
    return False


def flash_attention_enabled():
    return False


def pytorch_attention_enabled():
    return True


def pytorch_attention_enabled_vae():
    return True


def pytorch_attention_flash_attention():
    return _CUDA


# -- memory --------------------------------------------------------------------------------------


def module_size(module):
    """Bytes of a module's tensors."""
    return sum(t.nelement() * t.element_size() for t in module.state_dict().values())


def extra_reserved_memory():
    return EXTRA_RESERVED_VRAM


def minimum_inference_memory():
    return 1024 * 1024 * 1024 * 0.8 + EXTRA_RESERVED_VRAM


def maximum_vram_for_weights(device=None):
    return get_total_memory(device) * 0.88 - minimum_inference_memory()


def load_models_gpu(
    models,
    memory_required=0,
    force_patch_weights=False,
    minimum_memory_required=None,
    force_full_load=False,
):
    """Models of a pack's own are moved to the compute device. Those of the server are where they must be."""
    for model in models:
        if getattr(model, "reference", None) is None and hasattr(model, "patch_model"):
            model.patch_model(device_to=model.load_device)


def load_model_gpu(model):
    load_models_gpu([model])


def loaded_models(only_currently_used=False):
    return list(current_loaded_models)


def free_memory(memory_required, device, keep_loaded=[]):
    soft_empty_cache()
    return []


def cleanup_models():
    soft_empty_cache()


def cleanup_models_gc():
    gc.collect()


def unload_all_models():
    gc.collect()
    soft_empty_cache()


def unload_model_clones(model, unload_weights_only=True, force_unload=True):
    return True


def soft_empty_cache(force=False):
    """Give unused device memory back."""
    if _CUDA:
        torch.cuda.empty_cache()


def raise_non_oom(error):
    """Raise an error again, unless it says that memory ran out."""
    if not isinstance(error, OOM_EXCEPTION):
        raise error


# -- interrupts ----------------------------------------------------------------------------------


def interrupt_current_processing(value=True):
    """Stop the prompt whose node calls this."""
    if value and current() is not None:
        raise InterruptProcessingException


def processing_interrupted():
    try:
        throw_exception_if_processing_interrupted()
    except InterruptProcessingException:
        return True
    return False


def throw_exception_if_processing_interrupted():
    """Raises: InterruptProcessingException where the prompt that runs this was interrupted."""
    call = current()
    if call is not None:
        call.line.check()


def in_training():
    return False


total_vram = get_total_memory() / (1024 * 1024)
