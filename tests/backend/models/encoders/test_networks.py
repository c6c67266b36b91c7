"""Networks of text encoders give what transformers' own models give with the same weights."""

import pytest
import torch
from torch import nn
from transformers import Qwen3Config, Qwen3Model, T5Config, T5EncoderModel
from transformers.models.qwen2_5_vl import Qwen2_5_VLConfig, Qwen2_5_VLModel

from backend.models.encoders import qwen, t5
from backend.models.header import Header, TensorInfo
from backend.models.qwen_network import QwenNetwork, QwenSizes
from backend.models.qwen_vision import VisionNetwork, VisionSizes, cut
from backend.models.t5_network import T5Network, T5Sizes
from tests.backend.models.conftest import relative


def filled(module: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
    return module.eval()


def header_of(state: dict[str, torch.Tensor]) -> Header:
    return Header("a", {name: TensorInfo("F32", tuple(value.shape)) for name, value in state.items()})


def test_t5():
    config = T5Config(
        vocab_size=50, d_model=32, d_kv=8, num_heads=4, d_ff=64, num_layers=3, feed_forward_proj="gated-gelu"
    )
    theirs = filled(T5EncoderModel(config))
    state = theirs.state_dict()
    layout = t5.detect(header_of(state))
    assert layout is not None
    assert layout.sizes == T5Sizes(32, 32, 4, 64, 3, 50)
    ours = T5Network(layout.sizes)
    ours.load_state_dict({n: v for name, value in state.items() for n, v in layout.convert(name, value)})
    ids = torch.randint(0, 50, (2, 200))
    with torch.no_grad():
        assert relative(ours(ours.embed(ids)), theirs(ids).last_hidden_state) < 1e-5


@pytest.fixture(scope="module")
def qwen3() -> Qwen3Model:
    config = Qwen3Config(
        vocab_size=50,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        rope_theta=1e6,
        attention_bias=False,
    )
    return filled(Qwen3Model(config))


def test_qwen3(qwen3: Qwen3Model):
    state = {f"model.{name}": value for name, value in qwen3.state_dict().items()}
    layout = qwen.detect(header_of(state))
    assert layout is not None
    assert layout.sizes == QwenSizes(64, 4, 2, 32, 96, 3, 50, biased=False, normed=True)
    ours = QwenNetwork(layout.sizes)
    ours.load_state_dict(state)
    ids, positions = torch.randint(0, 50, (1, 20)), torch.arange(20).expand(3, -1)
    with torch.no_grad():
        theirs = qwen3(ids, output_hidden_states=True)
        assert relative(ours(ours.embed(ids), positions), theirs.last_hidden_state) < 1e-5
        assert relative(ours(ours.embed(ids), positions, 2), theirs.hidden_states[-2]) < 1e-5


IMAGE = 151


@pytest.fixture(scope="module")
def qwen_vl() -> Qwen2_5_VLModel:
    text = {
        "vocab_size": 160,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rope_theta": 1e6,
        "rms_norm_eps": 1e-6,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    vision = {
        "depth": 9,
        "hidden_size": 48,
        "intermediate_size": 56,
        "num_heads": 3,
        "out_hidden_size": 64,
        "fullatt_block_indexes": [7],
    }
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=IMAGE,
        vision_start_token_id=150,
        vision_end_token_id=152,
    )
    return filled(Qwen2_5_VLModel(config))


def test_qwens_eye(qwen_vl: Qwen2_5_VLModel):
    ours = VisionNetwork(VisionSizes(48, 3, 56, 9, 64))
    ours.load_state_dict(qwen_vl.visual.state_dict())
    picture = cut(torch.rand(200, 300, 3))
    assert (picture.rows, picture.columns) == (14, 22)
    with torch.no_grad():
        theirs = qwen_vl.visual(picture.values, grid_thw=torch.tensor([[1, 14, 22]]))
        assert relative(ours(picture), theirs.pooler_output) < 1e-5


def test_qwen_with_pictures_between_words(qwen_vl: Qwen2_5_VLModel):
    state = {f"model.{n.removeprefix('language_model.')}": v for n, v in qwen_vl.state_dict().items()}
    language = {name: value for name, value in state.items() if not name.startswith("model.visual")}
    network = QwenNetwork(
        QwenSizes(64, 4, 2, 16, 96, 2, 160, biased=True, normed=False),
        VisionNetwork(VisionSizes(48, 3, 56, 9, 64)),
    )
    visual = {f"visual.{name}": value for name, value in qwen_vl.visual.state_dict().items()}
    network.load_state_dict({**language, **visual})
    pictures = [cut(torch.rand(60, 90, 3)), cut(torch.rand(56, 56, 3))]
    written = [3, 4, qwen.IMAGE, 5, qwen.IMAGE, 6, 7]
    counts = iter([p.rows * p.columns // 4 for p in pictures])
    spelt: list[int] = []
    for token in written:
        spelt += [150, *[IMAGE] * next(counts), 152] if token == qwen.IMAGE else [token]
    ours_written = [n for token in written for n in ([150, token, 152] if token == qwen.IMAGE else [token])]
    vectors, positions = qwen._embedded(network, ours_written, pictures, torch.device("cpu"))
    grids = torch.tensor([[1, p.rows, p.columns] for p in pictures])
    ids = torch.tensor([spelt])
    with torch.no_grad():
        theirs = qwen_vl(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=torch.cat([p.values for p in pictures]),
            image_grid_thw=grids,
            mm_token_type_ids=(ids == IMAGE).int(),
        )
        assert relative(network(vectors, positions), theirs.last_hidden_state) < 1e-5
