import pytest
import torch

from backend.models.families.renaming import Fused, Renaming, Swapped, lora_names
from backend.models.family import identify
from backend.models.layer_name import LayerName
from tests.backend.models.families.originals import ALL, header_of, original, state_of

NAMES = Renaming(
    {"blocks": ("layers", {"qkv": Fused(("q", "k", "v")), "up": "feed", "in": Fused(("a", "b"), (1, 3))})},
    {"last": "end", "turn": Swapped("turned")},
)


def test_a_fused_layer_becomes_its_parts_in_order():
    weight = torch.arange(12.0).reshape(6, 2)
    found = dict(NAMES.convert("blocks.4.qkv.weight", weight))
    assert [*found] == ["layers.4.q.weight", "layers.4.k.weight", "layers.4.v.weight"]
    assert torch.equal(torch.cat([*found.values()]), weight)
    assert [len(part) for _, part in NAMES.convert("blocks.0.in.bias", torch.zeros(8))] == [2, 6]


def test_halves_change_places_and_what_no_table_has_keeps_its_name():
    assert dict(NAMES.convert("turn.bias", torch.tensor([1.0, 2.0])))["turned.bias"].tolist() == [2.0, 1.0]
    assert [name for name, _ in NAMES.convert("blocks.0.other.weight", torch.zeros(1))] == [
        "blocks.0.other.weight"
    ]


def test_a_layer_knows_where_it_comes_from():
    origin = NAMES.origin("layers.3.b")
    assert origin is not None
    assert (origin.layer, origin.part) == ("blocks.3.in", (1, 4, 4))
    assert NAMES.origin("turned") is None
    assert LayerName("blocks.3.in", (1, 4, 4)) in lora_names("layers.3.b", origin)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("prefix", ["model.diffusion_model.", ""])
def test_a_layout_is_read_back_from_its_own_file_which_no_other_family_claims(kind: str, prefix: str):
    layout = ALL[kind]
    family, found, place = identify(header_of(original(layout, state_of(layout)), prefix))
    assert (found, place) == (layout, prefix)
    assert family.name == {"schnell": "flux", "fill": "flux", "sd35": "sd3"}.get(kind, kind)


@pytest.mark.parametrize("kind", ALL)
def test_every_tensor_finds_its_way_into_the_network_unchanged(kind: str):
    layout = ALL[kind]
    state = state_of(layout)
    found = {
        ours: value
        for name, weight in original(layout, state).items()
        for ours, value in layout.convert(name, weight)
    }
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)
