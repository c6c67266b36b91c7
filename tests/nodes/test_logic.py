import pytest

from tests.nodes.build import REGISTRY, run


@pytest.mark.parametrize("switch", [True, False])
def test_a_switch_asks_for_its_side_alone_and_hands_it_on(switch):
    spec, side = REGISTRY.find("ComfySwitchNode"), f"on_{str(switch).lower()}"
    assert spec.lazy_names == {"on_true", "on_false"}
    assert spec.check_lazy(switch=switch, on_true=None, on_false=None) == [side]
    assert run("ComfySwitchNode", switch=switch, **{side: 7}) == 7


def test_a_switch_without_a_value_on_its_side_says_which():
    with pytest.raises(ValueError, match="nothing is connected to on_true"):
        run("ComfySwitchNode", switch=True, on_false=7)
