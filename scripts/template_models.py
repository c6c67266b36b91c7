"""Small random model files under the names that ComfyUI's official templates ask for.

Their layouts are those of the parity set (`shared/parity/layouts`), or of the published files, with fewer
layers and narrower: real key names, shapes that fit each other, values that mean nothing.
"""

import io
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
from safetensors.numpy import save_file
from sentencepiece import SentencePieceTrainer

from backend.models.families.sd15 import Sd15
from backend.models.families.unet_layout import UnetLayout
from backend.models.families.unet_names import Level

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("TESSERA_SHARED", ROOT.parent / "shared"))
Shapes: TypeAlias = dict[str, tuple[int, ...]]
T5, QWEN_VL, QWEN3 = 128, 128, 128  # widths of the tokens that text encoders make here
PIECES = 64  # of a tokenizer
VISION = 128


def layout(name: str) -> Shapes:
    """A layout of the parity set."""
    text = (SHARED / "parity" / "layouts" / f"{name}.json").read_text()
    return {key: tuple(shape) for key, (shape, _) in json.loads(text).items()}


def narrowed(shapes: Shapes, widths: Mapping[int, int]) -> Shapes:
    """Every size that is a multiple of a key of `widths` (the first that fits) in the new width."""

    def size(number: int) -> int:
        fits = ((old, new) for old, new in widths.items() if number % old == 0)
        return next((number // old * new for old, new in fits), number)

    return {name: tuple(map(size, shape)) for name, shape in shapes.items()}


def shallow(shapes: Shapes, layers: int) -> Shapes:
    """Without the text encoders' layers beyond the first so many."""
    numbered = re.compile(r"\.(?:layers|resblocks)\.(\d+)\.")
    kept = ((name, shape) for name, shape in shapes.items())
    return {
        name: shape for name, shape in kept if not (m := numbered.search(name)) or int(m.group(1)) < layers
    }


def under(prefix: str, shapes: Shapes) -> Shapes:
    return {prefix + name: shape for name, shape in shapes.items()}


def t5(width: int = T5, layers: int = 2) -> Shapes:
    heads, inner, ff = 2, 128, 256
    shapes: Shapes = {
        "shared.weight": (32128, width),
        "encoder.final_layer_norm.weight": (width,),
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": (32, heads),
    }
    for i in range(layers):
        attention, forward = f"encoder.block.{i}.layer.0", f"encoder.block.{i}.layer.1"
        for part in "qkv":
            shapes[f"{attention}.SelfAttention.{part}.weight"] = (inner, width)
        shapes[f"{attention}.SelfAttention.o.weight"] = (width, inner)
        shapes[f"{attention}.layer_norm.weight"] = shapes[f"{forward}.layer_norm.weight"] = (width,)
        shapes[f"{forward}.DenseReluDense.wi_0.weight"] = (ff, width)
        shapes[f"{forward}.DenseReluDense.wi_1.weight"] = (ff, width)
        shapes[f"{forward}.DenseReluDense.wo.weight"] = (width, ff)
    return shapes


def qwen(width: int, vocabulary: int, normed: bool, layers: int = 2) -> Shapes:
    """Qwen2.5 (biases) or Qwen3 (normed queries and keys): two heads of 128, one of keys and values."""
    head, ff = 128, 256
    shapes: Shapes = {"model.embed_tokens.weight": (vocabulary, width), "model.norm.weight": (width,)}
    for i in range(layers):
        layer = f"model.layers.{i}"
        for part, out in (("q", 2 * head), ("k", head), ("v", head)):
            shapes[f"{layer}.self_attn.{part}_proj.weight"] = (out, width)
            if not normed:
                shapes[f"{layer}.self_attn.{part}_proj.bias"] = (out,)
        shapes[f"{layer}.self_attn.o_proj.weight"] = (width, 2 * head)
        if normed:
            shapes[f"{layer}.self_attn.q_norm.weight"] = shapes[f"{layer}.self_attn.k_norm.weight"] = (head,)
        shapes[f"{layer}.mlp.gate_proj.weight"] = shapes[f"{layer}.mlp.up_proj.weight"] = (ff, width)
        shapes[f"{layer}.mlp.down_proj.weight"] = (width, ff)
        shapes[f"{layer}.input_layernorm.weight"] = (width,)
        shapes[f"{layer}.post_attention_layernorm.weight"] = (width,)
    return shapes


def qwen_vision(width: int, out: int, layers: int = 2) -> Shapes:
    """Qwen2.5-VL's tower: patches of 14 x 14 over two frames, 16 heads."""
    ff = 2 * width
    shapes: Shapes = {
        "visual.patch_embed.proj.weight": (width, 3, 2, 14, 14),
        "visual.merger.ln_q.weight": (width,),
        "visual.merger.mlp.0.weight": (4 * width, 4 * width),
        "visual.merger.mlp.0.bias": (4 * width,),
        "visual.merger.mlp.2.weight": (out, 4 * width),
        "visual.merger.mlp.2.bias": (out,),
    }
    for i in range(layers):
        block = f"visual.blocks.{i}"
        shapes[f"{block}.norm1.weight"] = shapes[f"{block}.norm2.weight"] = (width,)
        shapes |= _linear(f"{block}.attn.qkv", width, 3 * width) | _linear(f"{block}.attn.proj", width, width)
        shapes |= _linear(f"{block}.mlp.gate_proj", width, ff) | _linear(f"{block}.mlp.up_proj", width, ff)
        shapes |= _linear(f"{block}.mlp.down_proj", ff, width)
    return shapes


def siglip(width: int = VISION, layers: int = 22, size: int = 384, patch: int = 14) -> Shapes:
    """SigLIP's vision model as its own files name it."""
    head, shapes = "vision_model.head", dict[str, tuple[int, ...]]()
    for i in range(layers):
        layer = f"vision_model.encoder.layers.{i}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= _linear(f"{layer}.self_attn.{part}", width, width)
        shapes |= _linear(f"{layer}.mlp.fc1", width, 4 * width) | _linear(
            f"{layer}.mlp.fc2", 4 * width, width
        )
        shapes |= _norm(f"{layer}.layer_norm1", width) | _norm(f"{layer}.layer_norm2", width)
    shapes["vision_model.embeddings.patch_embedding.weight"] = (width, 3, patch, patch)
    shapes["vision_model.embeddings.patch_embedding.bias"] = (width,)
    shapes["vision_model.embeddings.position_embedding.weight"] = ((size // patch) ** 2, width)
    shapes |= _norm("vision_model.post_layernorm", width)
    shapes |= _norm(f"{head}.layernorm", width)
    shapes[f"{head}.attention.in_proj_weight"] = (3 * width, width)
    shapes[f"{head}.attention.in_proj_bias"] = (3 * width,)
    shapes |= _linear(f"{head}.attention.out_proj", width, width)
    shapes |= _linear(f"{head}.mlp.fc1", width, 4 * width) | _linear(f"{head}.mlp.fc2", 4 * width, width)
    shapes[f"{head}.probe"] = (1, 1, width)
    return shapes


def flux(channels: int = 16, guided: bool = True, t5_width: int = T5) -> Shapes:
    """channels: latent channels that go in; four of each are a token's."""
    shapes = narrowed(layout("flux"), {3072: 256, 4096: t5_width})
    shapes["img_in.weight"] = (256, 4 * channels)
    return {name: shape for name, shape in shapes.items() if guided or not name.startswith("guidance_in.")}


def z_image(width: int = 256, text: int = QWEN3) -> Shapes:
    """Z-Image's transformer: two heads of 128, two blocks of each kind."""
    ff, adaln = int(width / 3 * 8), 256
    shapes: Shapes = {
        "x_embedder.weight": (width, 64),
        "x_embedder.bias": (width,),
        "x_pad_token": (1, width),
        "cap_pad_token": (1, width),
        "cap_embedder.0.weight": (text,),
        "t_embedder.mlp.0.weight": (1024, 256),
        "t_embedder.mlp.0.bias": (1024,),
        "t_embedder.mlp.2.weight": (adaln, 1024),
        "t_embedder.mlp.2.bias": (adaln,),
        "final_layer.linear.weight": (64, width),
        "final_layer.linear.bias": (64,),
        "final_layer.adaLN_modulation.1.weight": (width, adaln),
        "final_layer.adaLN_modulation.1.bias": (width,),
    } | _linear("cap_embedder.1", text, width)
    for group, modulated in (("layers", True), ("noise_refiner", True), ("context_refiner", False)):
        for i in range(2):
            block = f"{group}.{i}"
            shapes[f"{block}.attention.qkv.weight"] = (3 * width, width)
            shapes[f"{block}.attention.out.weight"] = (width, width)
            shapes[f"{block}.attention.q_norm.weight"] = shapes[f"{block}.attention.k_norm.weight"] = (128,)
            shapes[f"{block}.feed_forward.w1.weight"] = shapes[f"{block}.feed_forward.w3.weight"] = (
                ff,
                width,
            )
            shapes[f"{block}.feed_forward.w2.weight"] = (width, ff)
            for norm in ("attention_norm1", "attention_norm2", "ffn_norm1", "ffn_norm2"):
                shapes[f"{block}.{norm}.weight"] = (width,)
            if modulated:
                shapes |= _linear(f"{block}.adaLN_modulation.0", adaln, 4 * width)
    return shapes


def sd35() -> Shapes:
    """One file with everything: the transformer, its VAE and three text encoders."""
    whole = layout("sd3")  # tokens as wide as T5-XXL makes them
    texts = under("text_encoders.clip_l.transformer.", shallow(layout("clip_l"), 2))
    texts |= under("text_encoders.clip_g.transformer.", shallow(layout("clip_g"), 2))
    return whole | texts | under("text_encoders.t5xxl.transformer.", t5(4096))


def flux_whole(guided: bool) -> Shapes:
    whole = under("model.diffusion_model.", flux(guided=guided)) | under("vae.", vae("vae_flux"))
    texts = under("text_encoders.clip_l.transformer.", shallow(layout("clip_l"), 2))
    return whole | texts | under("text_encoders.t5xxl.transformer.", t5())


def sd35_control(width: int = 128) -> Shapes:
    """Stability's ControlNets of SD 3.5 Large, for the model above."""
    block = "transformer_blocks.0"
    return (
        {"control_type": ()}
        | _convolution("pos_embed_input.proj", 16, width, 2)
        | _linear("time_text_embed.timestep_embedder.linear_1", 256, width)
        | _linear("time_text_embed.timestep_embedder.linear_2", width, width)
        | _linear("time_text_embed.text_embedder.linear_1", 2048, width)
        | _linear("time_text_embed.text_embedder.linear_2", width, width)
        | _linear(f"{block}.adaLN_modulation.1", width, 6 * width)
        | _linear(f"{block}.attn.qkv", width, 3 * width)
        | _linear(f"{block}.attn.proj", width, width)
        | _linear(f"{block}.mlp.fc1", width, 4 * width)
        | _linear(f"{block}.mlp.fc2", 4 * width, width)
        | _linear("controlnet_blocks.0", width, width)
    )


def qwen_image() -> Shapes:
    return narrowed(layout("qwen_image"), {3072: 256, 3584: QWEN_VL})


def qwen_control(channels: int) -> Shapes:
    """InstantX's: the model's blocks, and what they add. channels: of the hint."""
    trunk = {
        name: shape for name, shape in qwen_image().items() if not name.startswith(("norm_out", "proj_out"))
    }
    added = _linear("controlnet_x_embedder", 4 * channels, 256)
    for number in range(sum(name.endswith(".attn.norm_q.weight") for name in trunk)):
        added |= _linear(f"controlnet_blocks.{number}", 256, 256)
    return trunk | added


def qwen_block_control(channels: int) -> Shapes:
    """DiffSynth's, a small network behind each of two blocks."""
    shapes = _linear("img_in", 4 * channels, 256)
    for number in range(2):
        block = f"controlnet_blocks.{number}"
        shapes[f"{block}.x_rms.weight"] = shapes[f"{block}.y_rms.weight"] = (256,)
        shapes |= _linear(f"{block}.input_proj", 256, 256) | _linear(f"{block}.output_proj", 256, 256)
    return shapes


def uso_projector(made: int = 16) -> Shapes:
    """Of SigLIP's 729 tokens in three layers, tokens as wide as Flux is here."""
    shapes: Shapes = {}
    for level in ("high", "mid", "low"):
        name = f"feature_embedder.{level}"
        shapes |= _linear(f"{name}_embedding_linear.0", 729, made)
        shapes |= _norm(f"{name}_layer_norm", VISION) | _linear(f"{name}_projection", VISION, 256)
    return shapes


def redux() -> Shapes:
    return _linear("redux_up", VISION, 3 * T5) | _linear("redux_down", 3 * T5, T5)


def umt5() -> Shapes:
    """Wan's text encoder: every layer has positions of its own."""
    first = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    shapes = t5(4096)
    shapes["spiece_model"] = (len(pieces()),)
    return shapes | {first.replace("block.0", "block.1"): shapes[first], "shared.weight": (PIECES, 4096)}


@cache
def pieces() -> bytes:
    """A tokenizer of a few pieces, as UMT5's file brings one along."""
    made = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(["a quick brown fox jumps over the lazy dog", "pack my box with jugs"]),
        model_writer=made,
        vocab_size=PIECES,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return made.getvalue()


def sd15(unet: str = "sd15") -> Shapes:
    """A checkpoint; unet: the layout that its UNet has."""
    whole, prefix = shallow(layout("sd15"), 2), "model.diffusion_model."
    inner = {name: shape for name, shape in layout(unet).items() if name.startswith(prefix)}
    return {name: shape for name, shape in whole.items() if not name.startswith(prefix)} | inner


def sd15_of_four_levels() -> Shapes:
    """With as many blocks as the published UNet, each narrow; in diffusers' names."""
    levels = tuple(Level(width, 2, depth) for width, depth in ((64, 1), (128, 1), (128, 1), (128, 0)))
    state = Sd15(UnetLayout(levels, 4, 768, 256)).build().state_dict()
    texts = {name: shape for name, shape in sd15().items() if not name.startswith("model.diffusion_model.")}
    return texts | under(
        "model.diffusion_model.", {name: tuple(value.shape) for name, value in state.items()}
    )


def t2i_adapter() -> Shapes:
    """A depth adapter for the UNet above, in the original names: two blocks for each of four levels."""
    widths = (64, 128, 128, 128)
    shapes = _convolution("conv_in", 192, 64, 3)
    for number in range(8):
        before, width = widths[max(0, number // 2 - (number % 2 == 0))], widths[number // 2]
        if before != width:
            shapes |= _convolution(f"body.{number}.in_conv", before, width, 1)
        shapes |= _convolution(f"body.{number}.block1", width, width, 3)
        shapes |= _convolution(f"body.{number}.block2", width, width, 1)
    return shapes


def vae(name: str) -> Shapes:
    return narrowed(layout(name), {512: 128, 256: 64, 128: 32} if name != "vae_wan" else {96: 32})


def lora() -> Shapes:
    """A LoRA of Flux's first block; other models leave it out with a warning."""
    name = "lora_unet_double_blocks_0_img_attn_proj"
    return {f"{name}.lora_up.weight": (256, 4), f"{name}.lora_down.weight": (4, 256), f"{name}.alpha": ()}


SD2 = r"checkpoints/(v2-1|512-inpainting|768)"  # Stable Diffusion 2, which is not served
RULES: tuple[tuple[str, Callable[[], Shapes]], ...] = (
    (r"checkpoints/sd_xl_(base|turbo)", lambda: shallow(layout("sdxl"), 2)),
    (r"checkpoints/sd3\.5", sd35),
    (r"checkpoints/flux1-schnell", lambda: flux_whole(False)),
    (r"checkpoints/flux1-dev", lambda: flux_whole(True)),
    (r"checkpoints/interiordesign", sd15_of_four_levels),
    (r"checkpoints/", sd15),
    (r"diffusion_models/flux.*fill", lambda: flux(96)),
    (r"diffusion_models/flux.*(canny|depth)", lambda: flux(32)),
    (r"diffusion_models/flux.*schnell", lambda: flux(guided=False)),
    (r"diffusion_models/flux", flux),
    (r"diffusion_models/qwen", qwen_image),
    (r"diffusion_models/z_image", z_image),
    (r"diffusion_models/wan2\.1_t2v", lambda: layout("wan")),
    (r"text_encoders/clip_l", lambda: shallow(layout("clip_l"), 2)),
    (r"text_encoders/clip_g", lambda: shallow(layout("clip_g"), 2)),
    (r"text_encoders/t5", t5),
    (r"text_encoders/umt5", umt5),
    (r"text_encoders/qwen_2.5_vl", lambda: qwen(QWEN_VL, 152064, False) | qwen_vision(VISION, QWEN_VL)),
    (r"text_encoders/qwen_3", lambda: qwen(QWEN3, 151936, True)),
    (r"vae/ae", lambda: vae("vae_flux")),
    (r"vae/(qwen|wan_2\.1)", lambda: vae("vae_wan")),
    (r"vae/", lambda: vae("vae_sd15")),
    (r"clip_vision/sigclip", siglip),
    (r"controlnet/sd3\.5_large", sd35_control),
    (r"controlnet/qwen.*instantx.*inpaint", lambda: qwen_control(17)),
    (r"controlnet/qwen.*instantx", lambda: qwen_control(16)),
    (r"controlnet/.*t2iadapter", t2i_adapter),
    (r"controlnet/control_v11", lambda: layout("controlnet_sd15")),
    (r"model_patches/qwen.*inpaint", lambda: qwen_block_control(17)),
    (r"model_patches/qwen.*diffsynth", lambda: qwen_block_control(16)),
    (r"model_patches/uso", uso_projector),
    (r"style_models/flux1-redux", redux),
    (r"upscale_models/", lambda: layout("upscaler_esrgan")),
    (r"loras/(MoXin|blindbox)", lambda: layout("lora_sd15")),
    (r"loras/", lora),
)


def make(models: Path, folder: str, name: str) -> bool:
    """Write `models`/folder/name unless it is there: as a link to an equal one, if one was made.

    Returns: False where nobody knows what it should be.
    """
    path, wanted = models / folder / name, f"{folder}/{name}"
    if path.exists():
        return True
    number = next((n for n, (pattern, _) in enumerate(RULES) if re.match(pattern, wanted, re.I)), None)
    if number is None or re.match(SD2, wanted, re.I):
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    made = models / f"{number}.model"
    if not made.exists():
        save_file(dict(_filled(RULES[number][1]())), made)
    path.hardlink_to(made)
    return True


def _filled(shapes: Shapes) -> Iterator[tuple[str, np.ndarray]]:
    """Random values of a size that keeps the signal's: about one over the root of what a layer reads."""
    random = np.random.default_rng(0)
    for name, shape in shapes.items():
        if name == "spiece_model":
            yield name, np.frombuffer(pieces(), np.uint8)
            continue
        fan = math.prod(shape[1:]) if len(shape) > 1 else 0
        if fan:
            value = random.standard_normal(shape, np.float32) / math.sqrt(fan)
        else:
            value = np.full(shape, 0.0 if name.endswith("bias") else 1.0, np.float32)
        yield name, value.astype(np.float16)


def _linear(name: str, into: int, out: int) -> Shapes:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def _convolution(name: str, into: int, out: int, kernel: int) -> Shapes:
    return {f"{name}.weight": (out, into, kernel, kernel), f"{name}.bias": (out,)}


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}
