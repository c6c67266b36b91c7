"""Qwen2.5-VL and Qwen3 as text encoders, in transformers' names."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from backend.models.header import Header
from backend.models.qwen_network import QwenNetwork, QwenSizes
from backend.models.qwen_tokenizer import IMAGE, PAD, QwenTokenizer
from backend.models.qwen_vision import MERGED, Patches, VisionNetwork, VisionSizes, cut
from backend.models.text_encoder import EncoderKind, Request, Working
from backend.values import frozen

_LAYER = "model.layers.0."
_BIASED_HEAD = 128  # channels of a head where no norm tells them (2.5)
_VISION_HEADS = 16
_UNUSED = ("lm_head.weight",)


@frozen
class QwenLayout:
    """vision: of its eye; None where the file has none, or nothing is shown to the model."""

    sizes: QwenSizes
    vision: VisionSizes | None = None

    def build(self) -> QwenNetwork:
        with torch.device("meta"):
            return QwenNetwork(self.sizes, None if self.vision is None else VisionNetwork(self.vision))

    def convert(self, name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
        if name not in _UNUSED:
            yield name, weight

    def lora_names(self, site: str) -> tuple[str, ...]:
        return f"text_encoders.{site}", f"lora_te_{site.replace('.', '_')}", f"text_encoder.{site}"


def detect(header: Header) -> QwenLayout | None:
    """The layout of a Qwen model; None where the names are of anything else."""
    needed = (
        "model.embed_tokens.weight",
        f"{_LAYER}self_attn.q_proj.weight",
        f"{_LAYER}self_attn.k_proj.weight",
        f"{_LAYER}mlp.gate_proj.weight",
    )
    biased, normed = f"{_LAYER}self_attn.k_proj.bias" in header, f"{_LAYER}self_attn.q_norm.weight" in header
    if not header.has(*needed) or biased == normed:
        return None
    vocabulary, width = header.shape("model.embed_tokens.weight")
    inner, narrow = (header.shape(f"{_LAYER}self_attn.{x}_proj.weight")[0] for x in "qk")
    head = header.shape(f"{_LAYER}self_attn.q_norm.weight")[0] if normed else min(_BIASED_HEAD, narrow)
    hidden = header.shape(f"{_LAYER}mlp.gate_proj.weight")[0]
    layers = header.count("model.layers.{}.")
    sizes = QwenSizes(width, inner // head, inner // narrow, head, hidden, layers, vocabulary, biased, normed)
    return QwenLayout(sizes, _vision(header, width))


def _vision(header: Header, width: int) -> VisionSizes | None:
    if "visual.patch_embed.proj.weight" not in header:
        return None
    inner = header.shape("visual.patch_embed.proj.weight")[0]
    hidden = header.shape("visual.blocks.0.mlp.gate_proj.weight")[0]
    return VisionSizes(inner, _VISION_HEADS, hidden, header.count("visual.blocks.{}."), width)


KIND = EncoderKind(detect, lambda file: QwenTokenizer(), exact=True)


@frozen(eq=False)
class QwenText:
    """ids: as they stand in the text, a picture's as one; hidden float32 [1, T, C], on the CPU, where a
    picture has a place for each of its tokens.
    """

    ids: tuple[int, ...]
    hidden: Tensor


def encode(qwen: Working, text: str, images: Sequence[Tensor], layer: int | None = None) -> QwenText:
    """A text, and the pictures that it has places for, in their order -> hidden states.

    layer: counted from the end, whose states are taken as they are (None: the last, normalised).
    """
    network, device = _network(qwen), qwen.encoder.device
    ids = qwen.encoder.tokenizer.ids(text) or [PAD]
    pictures = [cut(image[0, ..., :3].to(device)) for image in images]
    with qwen.rows(1, len(ids)):
        vectors, positions = _embedded(network, ids, pictures, device)
        count = network.model.sizes.layers
        inner = None if layer is None or not -count <= layer < 0 else count + layer + 1
        return QwenText(tuple(ids), network(vectors, positions, inner).cpu())


def chosen(request: Request, part: str) -> str:
    """The text for a part, with its escaped parentheses as themselves: nothing here has weights."""
    return request.for_part(part).replace("\\(", "(").replace("\\)", ")")


def _embedded(
    network: QwenNetwork, ids: Sequence[int], pictures: Sequence[Patches], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Tokens [1, T, C] and their positions [3, T]; a picture's tokens stand in a square of positions."""
    parts: list[Tensor] = []
    places: list[Tensor] = []
    left, after = list(pictures), 0
    for number in ids:
        if number == IMAGE and left and isinstance(network.visual, VisionNetwork):
            picture = left.pop(0)
            parts.append(network.visual(picture))
            rows, columns = picture.rows // MERGED, picture.columns // MERGED
            square = torch.zeros(3, rows, columns, dtype=torch.long)
            square[1], square[2] = torch.arange(rows)[:, None], torch.arange(columns)[None, :]
            places.append(square.flatten(1) + after)
            after += max(rows, columns)
        else:
            parts.append(network.embed(torch.tensor([number], device=device)))
            places.append(torch.full((3, 1), after))
            after += 1
    return torch.cat(parts)[None], torch.cat(places, dim=1)


def _network(qwen: Working) -> QwenNetwork:
    assert isinstance(qwen.encoder.module, QwenNetwork)
    return qwen.encoder.module
