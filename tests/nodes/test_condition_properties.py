import torch

from backend.components import Weights
from backend.references import Hook, Hooks
from backend.types import Cond
from tests.nodes.build import run

LORA, OTHER = (Weights("lora", name, ()) for name in "ab")
HOOKS = Hooks((Hook(LORA, 1.0, 0.5),))
POSITIVE = (Cond(torch.zeros(1, 77, 8)),)
NEGATIVE = (Cond(torch.ones(1, 77, 8)),)


def test_properties_are_set_on_the_new_conditions_alone():
    mask = torch.ones(8, 8)
    positive, negative = run(
        "PairConditioningSetPropertiesAndCombine",
        positive=POSITIVE,
        negative=NEGATIVE,
        positive_NEW=NEGATIVE,
        negative_NEW=POSITIVE,
        strength=0.5,
        set_cond_area="mask bounds",
        mask=mask,
        hooks=HOOKS,
        timesteps=(0.1, 0.6),
    )
    assert positive[0] is POSITIVE[0]
    options = negative[1].options
    assert options["hooks"] == HOOKS
    assert options["mask"].shape == (1, 8, 8)
    assert (options["mask_strength"], options["set_area_to_bounds"]) == (0.5, True)
    assert (options["start_percent"], options["end_percent"]) == (0.1, 0.6)


def test_hooks_of_a_condition_add_up():
    other = Hooks((Hook(OTHER, 1.0, 1.0),))
    once = run("ConditioningSetProperties", cond_NEW=POSITIVE, set_cond_area="default", hooks=HOOKS)
    (cond,) = run("ConditioningSetProperties", cond_NEW=once, set_cond_area="default", hooks=other)
    assert cond.options["hooks"] == run("CombineHooks2", hooks_A=HOOKS, hooks_B=other)
    assert "mask" not in cond.options


def test_default_conditions_are_marked():
    made = run("ConditioningSetDefaultCombine", cond=POSITIVE, cond_DEFAULT=NEGATIVE)
    assert [cond.options.get("default", False) for cond in made] == [False, True]


def test_a_range_comes_with_what_is_before_and_after_it():
    assert run("ConditioningTimestepsRange", start_percent=0.2, end_percent=0.7) == (
        (0.2, 0.7),
        (0.0, 0.2),
        (0.7, 1.0),
    )
