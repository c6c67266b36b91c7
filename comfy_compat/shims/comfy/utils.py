"""ComfyUI's `comfy.utils`: files of weights, state dicts, sizes of pictures, tiles, progress."""

import itertools
import math
import struct

import safetensors
import safetensors.torch
import torch

from backend.resize import bislerp, resize  # noqa: F401  # packs import bislerp
from comfy_compat.progress import report_progress
from comfy_compat.unet_maps import (  # noqa: F401  # packs import them
    TRANSFORMER_BLOCKS,
    UNET_MAP_ATTENTIONS,
    UNET_MAP_BASIC,
    UNET_MAP_RESNET,
    unet_to_diffusers,
)
from comfy_compat.weight_files import StateDict

MMAP_TORCH_FILES = False
DISABLE_MMAP = False
ALWAYS_SAFE_LOAD = True
PROGRESS_BAR_ENABLED = True
_SAFETENSORS = (".safetensors", ".sft")


# -- files ---------------------------------------------------------------------------------------


def load_torch_file(ckpt, safe_load=False, device=None, return_metadata=False):
    """The state dict of a file, on the CPU unless told otherwise; with its metadata on request.

    Pickles are read without running their code. Raises: ValueError for a broken safetensors file.
    """
    device = torch.device("cpu") if device is None else torch.device(device)
    if str(ckpt).lower().endswith(_SAFETENSORS):
        try:
            with safetensors.safe_open(ckpt, framework="pt", device=device.type) as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no dict
                metadata = file.metadata()
        except safetensors.SafetensorError as error:
            raise ValueError(f"{ckpt} is no valid safetensors file: {error}. Download it again.") from error
    else:
        tensors, metadata = _unwrapped(torch.load(ckpt, map_location=device, weights_only=True)), None
    tensors = StateDict(tensors, str(ckpt))
    return (tensors, metadata) if return_metadata else tensors


def _unwrapped(loaded):
    """The tensors of a training checkpoint: under `state_dict`, or under its only key."""
    if "state_dict" in loaded:
        return loaded["state_dict"]
    if len(loaded) == 1:
        (only,) = loaded.values()
        return only if isinstance(only, dict) else loaded
    return loaded


def save_torch_file(sd, ckpt, metadata=None):
    safetensors.torch.save_file(sd, ckpt, metadata=metadata)


def safetensors_header(safetensors_path, max_size=100 * 1024 * 1024):
    """The JSON before the tensors, as bytes; None where it is longer than `max_size`."""
    with open(safetensors_path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return None if length > max_size else file.read(length)


# -- state dicts ---------------------------------------------------------------------------------


def calculate_parameters(sd, prefix=""):
    """How many numbers are under a prefix."""
    return sum(sd[name].nelement() for name in sd if name.startswith(prefix))


def weight_dtype(sd, prefix=""):
    """The dtype of most numbers under a prefix; None where there are none."""
    counts = {}
    for name in sd:
        if name.startswith(prefix):
            counts[sd[name].dtype] = counts.get(sd[name].dtype, 0) + sd[name].numel()
    return max(counts, key=counts.get) if counts else None


def state_dict_key_replace(state_dict, keys_to_replace):
    """Rename keys, in place."""
    for old, new in keys_to_replace.items():
        if old in state_dict:
            state_dict[new] = state_dict.pop(old)
    return state_dict


def state_dict_prefix_replace(state_dict, replace_prefix, filter_keys=False):
    """Rename prefixes, in place; filter_keys: into a new dict of those that have one."""
    out = {} if filter_keys else state_dict
    for old, new in replace_prefix.items():
        for name in [name for name in state_dict if name.startswith(old)]:
            out[new + name[len(old) :]] = state_dict.pop(name)
    return out


def convert_sd_to(state_dict, dtype):
    """Cast all tensors, in place."""
    for name in list(state_dict):
        state_dict[name] = state_dict[name].to(dtype)
    return state_dict


def clip_text_transformers_convert(sd, prefix_from, prefix_to):
    """An OpenCLIP text model's keys as transformers', in place."""
    layers = {name.split(".")[3] for name in sd if name.startswith(f"{prefix_from}transformer.resblocks.")}
    sd = transformers_convert(sd, prefix_from, f"{prefix_to}text_model.", len(layers) or 32)
    for projection, turned in (("text_projection.weight", False), ("text_projection", True)):
        if (weight := sd.pop(prefix_from + projection, None)) is not None:
            weight = weight.transpose(0, 1).contiguous() if turned else weight
            sd[f"{prefix_to}text_projection.weight"] = weight
    return sd


_OPENCLIP = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}


def transformers_convert(sd, prefix_from, prefix_to, number):
    """An OpenCLIP transformer's keys as transformers', in place; its fused projections are cut in three."""
    whole = {
        "positional_embedding": "embeddings.position_embedding.weight",
        "token_embedding.weight": "embeddings.token_embedding.weight",
        "ln_final.weight": "final_layer_norm.weight",
        "ln_final.bias": "final_layer_norm.bias",
    }
    state_dict_key_replace(sd, {prefix_from + old: prefix_to + new for old, new in whole.items()})
    for layer in range(number):
        block, target = f"{prefix_from}transformer.resblocks.{layer}.", f"{prefix_to}encoder.layers.{layer}."
        for end in ("weight", "bias"):
            names = {f"{block}{old}.{end}": f"{target}{new}.{end}" for old, new in _OPENCLIP.items()}
            state_dict_key_replace(sd, names)
            if (fused := sd.pop(f"{block}attn.in_proj_{end}", None)) is not None:
                for name, part in zip("qkv", fused.chunk(3), strict=True):
                    sd[f"{target}self_attn.{name}_proj.{end}"] = part
    return sd


# -- attributes by path --------------------------------------------------------------------------


def get_attr(obj, attr):
    """`get_attr(a, "b.c")` is a.b.c."""
    for name in attr.split("."):
        obj = getattr(obj, name)
    return obj


def set_attr(obj, attr, value):
    """Set a.b.c. Returns: what it was."""
    path, _, name = attr.rpartition(".")
    owner = get_attr(obj, path) if path else obj
    old = getattr(owner, name)
    setattr(owner, name, value)
    return old


def set_attr_param(obj, attr, value):
    return set_attr(obj, attr, torch.nn.Parameter(value, requires_grad=False))


def copy_to_param(obj, attr, value):
    """Write into a parameter, in place."""
    get_attr(obj, attr).data.copy_(value)


# -- batches and sizes ---------------------------------------------------------------------------


def repeat_to_batch_size(tensor, batch_size, dim=0):
    """Repeated or cut to `batch_size` along `dim`."""
    have = tensor.shape[dim]
    if have < batch_size:
        counts = [1] * tensor.ndim
        counts[dim] = math.ceil(batch_size / have)
        tensor = tensor.repeat(counts)
    return tensor.narrow(dim, 0, batch_size) if tensor.shape[dim] > batch_size else tensor


def _spread(have, batch_size):
    """For each of `batch_size` places, which of `have` it gets: evenly spread."""
    if batch_size < have:
        step = (have - 1) / (batch_size - 1)
        return [min(round(i * step), have - 1) for i in range(batch_size)]
    return [min(math.floor((i + 0.5) * have / batch_size), have - 1) for i in range(batch_size)]


def resize_to_batch_size(tensor, batch_size):
    """As many rows as asked for, taken at equal distances, or repeated for equal stretches."""
    if tensor.shape[0] == batch_size or batch_size <= 1:
        return tensor[:batch_size]
    return tensor[_spread(tensor.shape[0], batch_size)]


def resize_list_to_batch_size(l, batch_size):  # noqa: E741  # ComfyUI's name
    if len(l) in (0, batch_size):
        return l
    return l[:batch_size] if batch_size <= 1 else [l[i] for i in _spread(len(l), batch_size)]


def lanczos(samples, width, height):
    """[B, C, H, W] in another size, through 8-bit pixels."""
    return resize(samples.cpu(), width, height, "lanczos").to(samples.device, samples.dtype)


def common_upscale(samples, width, height, upscale_method, crop):
    """[B, C, H, W] (more axes: picture by picture) in another size; crop "center" keeps the aspect ratio."""
    if upscale_method == "lanczos":
        sized = resize(samples.cpu(), width, height, upscale_method, crop)
        return sized.to(samples.device, samples.dtype)
    return resize(samples, width, height, upscale_method, crop)


def reshape_mask(input_mask, output_shape):
    """A mask in the size of a latent, over its channels and rows."""
    dims = len(output_shape) - 2
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[dims]
    if dims == 2:
        input_mask = input_mask.reshape(-1, 1, *input_mask.shape[-2:])
    elif dims == 3 and input_mask.ndim < 5:
        input_mask = input_mask.reshape(1, 1, -1, *input_mask.shape[-2:])
    mask = torch.nn.functional.interpolate(input_mask, size=output_shape[2:], mode=mode)
    if mask.shape[1] < output_shape[1]:
        mask = mask.repeat((1, output_shape[1]) + (1,) * dims)[:, : output_shape[1]]
    return repeat_to_batch_size(mask, output_shape[0])


# -- tiles ---------------------------------------------------------------------------------------


def get_tiled_scale_steps(width, height, tile_x, tile_y, overlap):
    """How many tiles there are."""
    rows = 1 if height <= tile_y else math.ceil((height - overlap) / (tile_y - overlap))
    columns = 1 if width <= tile_x else math.ceil((width - overlap) / (tile_x - overlap))
    return rows * columns


def tiled_scale(
    samples,
    function,
    tile_x=64,
    tile_y=64,
    overlap=8,
    upscale_amount=4,
    out_channels=3,
    output_device="cpu",
    pbar=None,
):
    """`function` over tiles of [B, C, H, W], blended where they overlap."""
    return tiled_scale_multidim(
        samples, function, (tile_y, tile_x), overlap, upscale_amount, out_channels, output_device, pbar=pbar
    )


@torch.inference_mode()
def tiled_scale_multidim(
    samples,
    function,
    tile=(64, 64),
    overlap=8,
    upscale_amount=4,
    out_channels=3,
    output_device="cpu",
    downscale=False,
    index_formulas=None,
    pbar=None,
):
    """`function` over tiles of [B, C, *dims]. upscale_amount: of sizes, a factor or a function per axis;
    index_formulas: of places, where they differ; downscale: factors divide."""
    dims = len(tile)
    sizes = _per_axis(upscale_amount, dims)
    places = _per_axis(upscale_amount if index_formulas is None else index_formulas, dims)
    overlaps = _per_axis(overlap, dims)

    def scaled(rule, value):
        return rule(value) if callable(rule) else value / rule if downscale else value * rule

    shape = [round(scaled(rule, size)) for rule, size in zip(sizes, samples.shape[2:], strict=True)]
    output = torch.empty([samples.shape[0], out_channels, *shape], device=output_device)
    for b in range(samples.shape[0]):
        row = samples[b : b + 1]
        spans = [_spans(row.shape[d + 2], tile[d], overlaps[d]) for d in range(dims)]
        if all(len(span) == 1 for span in spans):
            output[b : b + 1] = function(row).to(output_device)
            if pbar is not None:
                pbar.update(1)
            continue
        total = torch.zeros([1, out_channels, *shape], device=output_device)
        weights = torch.zeros_like(total)
        for parts in itertools.product(*spans):
            piece = row
            for d, (start, length) in enumerate(parts):
                piece = piece.narrow(d + 2, start, length)
            made = function(piece).to(output_device)
            mask = _feathered(made, [round(scaled(sizes[d], overlaps[d])) for d in range(dims)])
            at, weight_at = total, weights
            for d, (start, _) in enumerate(parts):
                place = round(scaled(places[d], start))
                at = at.narrow(d + 2, place, made.shape[d + 2])
                weight_at = weight_at.narrow(d + 2, place, made.shape[d + 2])
            at.add_(made * mask)
            weight_at.add_(mask)
            if pbar is not None:
                pbar.update(1)
        output[b : b + 1] = total / weights
    return output


def _per_axis(value, dims):
    return list(value) if isinstance(value, (tuple, list)) else [value] * dims


def _spans(size, tile, overlap):
    """(start, length) of the tiles along an axis."""
    if size <= tile:
        return [(0, size)]
    starts = (max(0, min(size - overlap, at)) for at in range(0, size - overlap, tile - overlap))
    return [(start, min(tile, size - start)) for start in starts]


def _feathered(like, widths):
    """Weights that fall off towards the edges of a tile."""
    mask = torch.ones_like(like)
    for axis, width in enumerate(widths, 2):
        if width >= mask.shape[axis]:
            continue
        for step in range(width):
            share = (step + 1) / width
            mask.narrow(axis, step, 1).mul_(share)
            mask.narrow(axis, mask.shape[axis] - 1 - step, 1).mul_(share)
    return mask


# -- progress ------------------------------------------------------------------------------------


def _to_clients(value, total, preview=None, prompt_id=None, node_id=None):
    report_progress(value, total, node_id, preview)


PROGRESS_BAR_HOOK = _to_clients


def set_progress_bar_enabled(enabled):
    globals()["PROGRESS_BAR_ENABLED"] = enabled


def set_progress_bar_global_hook(function):
    globals()["PROGRESS_BAR_HOOK"] = function


class ProgressBar:
    """Tells the client how far the node is."""

    def __init__(self, total, node_id=None):
        self.total, self.current = total, 0
        self.node_id, self.hook = node_id, PROGRESS_BAR_HOOK

    def update_absolute(self, value, total=None, preview=None):
        self.total = self.total if total is None else total
        self.current = min(value, self.total)
        if self.hook is not None:
            self.hook(self.current, self.total, preview, node_id=self.node_id)

    def update(self, value):
        self.update_absolute(self.current + value)
