from collections.abc import Mapping

import torch
from hypothesis import given
from hypothesis import strategies as st

from backend.models.adapters import Weight
from backend.models.changes import Delta, Scaled
from backend.models.merged import Copies, Lora, Patch, Stack, biased, merged, pays

SIZES = st.integers(1, 4000)
LAYERS = st.lists(st.tuples(SIZES, SIZES), min_size=1, max_size=5)
OWN = {name: Weight(torch.zeros(4, 4), None) for name in "abc"}
EACH = 4 * 4 * 4  # bytes


def copies(budget: int) -> Copies:
    return Copies(OWN.__getitem__, budget)


def a_lora(*sites: str) -> Lora:
    return Lora("a.safetensors", {site: Delta(weight=torch.ones(4, 4)) for site in sites})


def weights(of: Copies, stack: Stack, sites: str) -> Mapping[str, torch.Tensor]:
    return {site: of.weight(stack, site).weight for site in sites}


@given(LAYERS, SIZES)
def test_more_places_never_undo_a_purchase(layers: list[tuple[int, int]], places: int):
    assert not pays(0, layers)
    assert pays(places, layers) <= pays(places + 1, layers)


@given(LAYERS)
def test_no_more_is_paid_in_rent_than_the_price_and_one_pass(layers: list[tuple[int, int]]):
    one = 64
    places = next(n for n in range(0, 10**6, one) if pays(n, layers))
    rent = places * sum(outputs + inputs for outputs, inputs in layers)
    price = 2 * sum(outputs * inputs for outputs, inputs in layers)
    assert price <= rent < price + one * sum(outputs + inputs for outputs, inputs in layers)


def test_a_copy_is_made_once_and_counted():
    held, lora = copies(budget=1000), a_lora("a", "b")
    stack = (Patch(lora, 0.5), Patch(lora, 0.25))
    made = weights(held, stack, "ab")
    assert float(made["a"][0, 0]) == 0.75
    assert held.weight(stack, "a").weight is made["a"]
    assert held.nbytes == 2 * EACH
    assert float(OWN["a"].weight.sum()) == 0.0


def test_each_strength_and_order_is_a_stack_of_its_own():
    held, one, two = copies(budget=1000), a_lora("a"), a_lora("a")
    stacks: list[Stack] = [(Patch(one, 1.0),), (Patch(one, 0.5),), (Patch(one, 1.0), Patch(two, 1.0))]
    assert [float(held.weight(stack, "a").weight[0, 0]) for stack in stacks] == [1.0, 0.5, 2.0]


def test_what_is_over_the_budget_goes_but_not_what_is_in_use():
    held, lora = copies(budget=2 * EACH), a_lora("a")
    stacks: list[Stack] = [(Patch(lora, float(n)),) for n in range(1, 5)]
    for stack in stacks:
        weights(held, stack, "a")
    held.trim(stacks[:1])
    assert held.nbytes == 2 * EACH
    kept = held.weight(stacks[0], "a").weight
    held.trim(stacks)
    assert held.weight(stacks[0], "a").weight is kept


def test_a_stack_larger_than_the_budget_is_never_merged_whole():
    lora = a_lora("a", "b", "c")
    assert not copies(budget=3 * EACH - 1).whole((Patch(lora, 1.0),), 10**9)
    assert copies(budget=3 * EACH).whole((Patch(lora, 1.0),), 10**9)


def test_a_stack_that_will_run_for_long_is_merged_at_once():
    held, stack = copies(budget=100 * EACH), (Patch(a_lora("a"), 1.0),)
    assert not held.whole(stack, 0)
    held.ask((*stack, Patch(a_lora("b"), 0.0)))  # what has no strength changes nothing
    assert held.whole(stack, 0)


def test_copies_are_given_up_once_and_only_needed_ones_come_back():
    held, lora = copies(budget=1000), a_lora("a")
    stack = (Patch(lora, 1.0),)
    weights(held, stack, "a")
    assert held.give_up() == EACH
    assert held.nbytes == 0
    assert not held.whole(stack, 10**9)
    assert float(held.weight(stack, "a").weight[0, 0]) == 1.0
    assert held.give_up() == 0
    assert held.nbytes == EACH


def test_a_scaled_layer_is_scaled_with_what_was_added_before_and_not_with_what_comes_after():
    first = Lora("a", {"a": Delta(weight=torch.ones(4, 4), bias=torch.ones(4))})
    scaled = Lora("s", {"a": Scaled(3.0)})
    stack = (Patch(first, 0.5), Patch(scaled, 1.0), Patch(first, 2.0))
    made = merged(Weight(torch.ones(4, 4), torch.zeros(4)), stack, "a")
    assert torch.equal(made.weight, torch.full((4, 4), (1 + 0.5) * 3 + 2))
    assert made.bias is not None
    assert torch.equal(made.bias, torch.full((4,), 0.5 * 3 + 2))
    assert biased(None, (Patch(scaled, 1.0),), "a") is None


def test_a_copy_is_made_only_where_there_is_room_for_it_and_stays_where_there_is_none_left():
    asked: list[int] = []
    room = [EACH - 1]

    def fits(nbytes: int) -> bool:
        asked.append(nbytes)
        return nbytes <= room[0]

    held = Copies(OWN.__getitem__, 10 * EACH, fits)
    stack = (Patch(a_lora("a"), 1.0),)
    assert not held.whole(stack, 10**9)
    room[0] = EACH
    assert held.whole(stack, 1)
    assert asked == [EACH, EACH]
    held.weight(stack, "a")
    room[0] = 0
    assert held.whole(stack, 1)
