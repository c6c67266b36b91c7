"""GGUF files, written here byte by byte."""

import struct
from pathlib import Path

import pytest
import torch
from torch import Tensor

from backend.errors import BadFile
from backend.models.adapters import adapt
from backend.models.blocks import BLOCKS
from backend.models.gguf import read_gguf
from backend.models.identity import identify
from backend.models.weights import fill, open_model
from tests.backend.models.conftest import CPU, file_of
from tests.backend.models.families.originals import FLUX, original, state_of

Written = tuple[str, tuple[int, ...], int, bytes]  # name, shape, ggml's number of the format, bytes


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def write(path: Path, tensors: list[Written]) -> None:
    facts = [text("general.architecture") + struct.pack("<I", 8) + text("flux")]
    facts.append(text("list") + struct.pack("<IIQ", 9, 5, 2) + struct.pack("<ii", 1, -2))
    table, data = b"", b""
    for name, shape, kind, content in tensors:
        data += b"\0" * (-len(data) % 32)
        dims = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        table += text(name) + dims + struct.pack("<IQ", kind, len(data))
        data += content
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(facts)) + b"".join(facts) + table
    path.write_bytes(head + b"\0" * (-len(head) % 32) + data)


def q8_0(weight: Tensor) -> tuple[bytes, Tensor]:
    """A matrix in blocks, and the numbers that they stand for."""
    blocks = weight.reshape(-1, 32)
    scale = (blocks.abs().amax(dim=1, keepdim=True) / 127).half()
    values = (blocks / scale.float()).round().clamp(-127, 127).to(torch.int8)
    packed = torch.cat([scale.view(torch.uint8), values.view(torch.uint8)], dim=1)
    return packed.numpy().tobytes(), (values.float() * scale.float()).reshape(weight.shape)


def test_a_model_in_blocks_computes_as_its_numbers_do_and_stays_in_blocks(tmp_path: Path):
    plain = original(FLUX, state_of(FLUX))
    written: list[Written] = []
    wanted: dict[str, Tensor] = {}
    for name, value in plain.items():
        if value.ndim == 2 and value.shape[1] % 32 == 0:
            content, wanted[name] = q8_0(value)
            written.append((name, tuple(value.shape), 8, content))
        else:
            wanted[name] = value
            written.append((name, tuple(value.shape), 0, value.numpy().tobytes()))
    write(tmp_path / "a.gguf", written)

    def run(tensors: dict[str, Tensor] | None) -> tuple[Tensor, int]:
        module = FLUX.build()
        adapt(module)
        file = open_model(str(tmp_path / "a.gguf"))
        if tensors is None:
            nbytes = fill(module, file, FLUX.convert, CPU, torch.float32)
        else:
            state = {o: v for n, t in tensors.items() for o, v in FLUX.convert(n, t)}
            module.load_state_dict(state, assign=True)
            nbytes = sum(value.nbytes for value in state.values())
        generator = torch.Generator().manual_seed(1)
        x, tokens = torch.randn(1, 16, 6, 6, generator=generator), torch.randn(1, 5, 24, generator=generator)
        extra = {"pooled": torch.randn(1, 20, generator=generator), "guidance": torch.tensor([3.5])}
        with torch.no_grad():
            return FLUX.call(module, x, torch.tensor([0.5]), tokens, extra), nbytes

    (packed, packed_bytes), (whole, whole_bytes) = run(None), run(wanted)
    assert torch.equal(packed, whole)
    assert packed_bytes < 0.35 * whole_bytes
    assert (
        __import__("backend.models.families.flux", fromlist=["detect"]).detect(
            open_model(str(tmp_path / "a.gguf")).header
        )
        == FLUX
    )


def test_its_identity_is_of_what_it_holds(tmp_path: Path):
    for name, value in (("a", 1.0), ("b", 1.0), ("c", 2.0)):
        write(tmp_path / f"{name}.gguf", [("img_in.weight", (2, 3), 0, struct.pack("<6f", *[value] * 6))])
    a, b, c = (identify(file_of(tmp_path / f"{name}.gguf")).digest for name in "abc")
    assert a == b != c


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (
            (
                "enc.blk.0.attn_q.weight",
                "enc.blk.0.ffn_up.weight",
                "token_embd.weight",
                "enc.output_norm.weight",
            ),
            (
                "encoder.block.0.layer.0.SelfAttention.q.weight",
                "encoder.block.0.layer.1.DenseReluDense.wi_1.weight",
                "shared.weight",
                "encoder.final_layer_norm.weight",
            ),
        ),
        (
            ("blk.3.attn_q.bias", "blk.3.attn_q_norm.weight", "token_embd.weight", "blk.3.ffn_down.weight"),
            (
                "model.layers.3.self_attn.q_proj.bias",
                "model.layers.3.self_attn.q_norm.weight",
                "model.embed_tokens.weight",
                "model.layers.3.mlp.down_proj.weight",
            ),
        ),
    ],
    ids=["t5", "qwen"],
)
def test_text_encoders_have_transformers_names(tmp_path: Path, names, found):
    write(tmp_path / "a.gguf", [(name, (2,), 0, bytes(8)) for name in names])
    assert tuple(read_gguf(str(tmp_path / "a.gguf"))) == found


def test_what_is_no_gguf_and_what_ends_too_soon_is_refused(tmp_path: Path):
    (tmp_path / "a.gguf").write_bytes(b"no such thing")
    with pytest.raises(BadFile, match="no GGUF file"):
        read_gguf(str(tmp_path / "a.gguf"))
    write(tmp_path / "b.gguf", [("x", (64,), 0, bytes(256))])
    (tmp_path / "b.gguf").write_bytes((tmp_path / "b.gguf").read_bytes()[:-8])
    with pytest.raises(BadFile, match="ends within tensor 'x'"):
        read_gguf(str(tmp_path / "b.gguf"))
    write(tmp_path / "c.gguf", [("x", (64,), 19, bytes(256))])
    with pytest.raises(BadFile, match="ggml's format 19"):
        read_gguf(str(tmp_path / "c.gguf"))
    assert BLOCKS.keys() >= {"Q8_0", "Q4_K"}
