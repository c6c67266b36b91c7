"""Conditions resolved for a run: counterparts, ControlNets for both sides, what inpainting models see."""

from types import SimpleNamespace

import pytest
import torch

from backend.components import Weights
from backend.errors import UnsupportedOption
from backend.models.conditioning import Inputs, rows_of, spread_rows
from backend.models.control_layout import HintFormat
from backend.models.families.inpainting import masked_picture
from backend.references import ControlNet, ControlUse, Vae
from backend.sampling.region import Box
from backend.worker.conditions import Setting, resolve
from tests.backend.worker.fakes import FORMAT, PREDICTION, Plain, a_cond

NET = ControlNet(Weights("controlnet", "c", ()))


class Inpainting(Plain):
    in_channels = 2 * FORMAT.channels + 1

    def conditioning(self, given):
        shown = masked_picture(given, FORMAT)
        return Inputs() if shown is None else Inputs(placed={"concat": shown})


class Net:
    def __init__(self, hint=HintFormat()):  # noqa: B008  # it is frozen
        self.hint = hint


def a_setting(layout=None, mask=None, rows=1, encode=None, net=None):
    latent = torch.full((rows, 4, 16, 16), 0.5)
    networks = SimpleNamespace(control=lambda _: net or Net(), lora=lambda use: use, encode=encode)
    return Setting(layout or Plain(), PREDICTION.range, latent, mask, networks)


def resolved(positive, negative, setting=None):
    found = resolve({"positive": positive, "negative": negative}, setting or a_setting())
    return found["positive"], found["negative"]


def value(condition):
    return float(condition.tokens.mean())


def test_a_side_gets_a_counterpart_for_every_area_of_the_other():
    inner, outer = (4, 4, 2, 2), (8, 8, 0, 0)
    _, negative = resolved([a_cond(1.0, area=inner, strength=0.7)], [a_cond(5.0), a_cond(6.0, area=outer)])
    made = negative[-1]
    assert len(negative) == 3
    assert (value(made), made.region.box, made.region.strength) == (6.0, Box((4, 4), (2, 2)), 0.7)


def test_no_counterpart_is_made_for_an_area_that_both_sides_have():
    area = (4, 4, 2, 2)
    positive, negative = resolved([a_cond(1.0, area=area)], [a_cond(5.0, area=area)])
    assert (len(positive), len(negative)) == (1, 1)


def test_areas_are_compared_as_they_were_asked_for():
    over, whole = (8, 8, 12, 0), (16, 16, 0, 0)
    positive, negative = resolved([a_cond(1.0, area=over)], [a_cond(5.0, area=whole)])
    assert positive[0].region.box == Box((4, 8), (12, 0))
    assert (len(positive), len(negative)) == (1, 1)  # it reaches over the end of what would surround it


def test_a_side_that_is_not_joined_knows_of_no_areas_and_controlnets():
    sides = {
        "positive": [controlled(1.0, True, area=(4, 4, 2, 2))],
        "negative": [a_cond(5.0)],
        "empty": [a_cond(0.0)],
    }
    found = resolve(sides, a_setting(), ("positive", "negative"))
    assert [len(found[side]) for side in sides] == [1, 2, 1]
    assert not found["empty"][0].controls


def controlled(value, for_both, **options):
    use = ControlUse(NET, torch.zeros(1, 64, 64, 3), 0.8)
    return a_cond(value, control=(use,), control_apply_to_uncond=for_both, **options)


def test_a_controlnet_for_both_sides_goes_to_the_other_unless_that_has_its_own():
    _, (negative,) = resolved([controlled(1.0, True)], [a_cond(5.0)])
    assert [control.strength for control in negative.controls] == [0.8]
    _, (negative,) = resolved([controlled(1.0, False)], [a_cond(5.0)])
    assert not negative.controls
    _, (one, two) = resolved([controlled(1.0, True)], [a_cond(5.0), controlled(6.0, False)])
    assert (len(one.controls), len(two.controls)) == (0, 1)


def test_a_hint_is_as_large_as_the_region_it_is_for():
    (whole, part), _ = resolved([controlled(1.0, False), controlled(2.0, False, area=(8, 4, 0, 0))], [])
    assert tuple(whole.controls[0].hint.shape) == (1, 3, 128, 128)
    assert tuple(part.controls[0].hint.shape) == (1, 3, 64, 32)


def test_an_inpainting_model_is_shown_a_rounded_mask_and_the_picture_in_its_units():
    shown = {
        "concat_latent_image": torch.full((1, 4, 16, 16), 3.0),
        "concat_mask": torch.full((1, 1, 128, 128), 0.6),
    }
    (condition,), _ = resolved([a_cond(1.0, **shown)], [], a_setting(Inpainting(), rows=2))
    concat = condition.inputs.placed["concat"]
    assert tuple(concat.shape) == (2, 5, 16, 16)
    assert bool(concat[:, 0].eq(1.0).all())
    assert bool(concat[:, 1:].eq(3.0 * FORMAT.scale).all())


def test_without_a_picture_of_its_own_it_is_shown_the_masked_latent_and_without_a_mask_nothing():
    mask = torch.zeros(1, 4, 16, 16)
    (condition,), _ = resolved([a_cond(1.0)], [], a_setting(Inpainting(), mask))
    assert condition.inputs.placed["concat"][:, 1:].eq(0.5).all()
    (condition,), _ = resolved([a_cond(1.0)], [], a_setting(Inpainting()))
    assert condition.inputs.placed == {}
    (condition,), _ = resolved([a_cond(1.0)], [], a_setting(Plain(), mask))
    assert condition.inputs.placed == {}


def test_an_empty_first_side_and_an_unknown_option_are_refused():
    with pytest.raises(UnsupportedOption, match=r"positive=.*at least one"):
        resolved([], [a_cond(1.0)])
    with pytest.raises(UnsupportedOption, match="conditioning option gligen"):
        resolved([a_cond(1.0)], [a_cond(1.0, gligen=("position", None))])


def test_rows_are_repeated_or_spread_to_a_batch():
    value = torch.arange(3)
    assert rows_of(value, 5).tolist() == [0, 1, 2, 0, 1]
    assert rows_of(value, 2).tolist() == [0, 1]
    assert spread_rows(value, 6).tolist() == [0, 0, 1, 1, 2, 2]
    assert spread_rows(value, 2).tolist() == [0, 2]
    assert spread_rows(value, 1).tolist() == [0]


def encoded(vae, pixels):
    """A VAE whose latent is each eighth pixel's colour, and a fourth channel of ones."""
    latent = pixels[:, ::8, ::8].movedim(-1, 1)
    return torch.cat([latent, torch.ones_like(latent[:, :1])], dim=1)


def test_a_hint_is_encoded_and_told_what_is_kept_where_the_control_model_wants_that():
    mask = torch.zeros(1, 64, 64)
    mask[:, :, :32] = 1.0
    use = ControlUse(NET, torch.ones(1, 64, 64, 3), 0.8, vae=Vae(Weights("vae", "v", ())), mask=mask)
    net = Net(HintFormat(pixels=1, latent=FORMAT, masked=True))
    cond = a_cond(1.0, control=(use,), control_apply_to_uncond=False)
    (condition,), _ = resolved([cond], [], a_setting(encode=encoded, net=net))
    hint = condition.controls[0].hint
    assert tuple(hint.shape) == (1, 5, 16, 16)
    assert hint[0, 0, 0].tolist() == [0.0] * 8 + [FORMAT.scale] * 8  # what is made anew is not shown
    assert hint[0, 3].eq(FORMAT.scale).all()
    assert hint[0, 4, 0].tolist() == [0.0] * 8 + [1.0] * 8


def test_an_encoded_hint_needs_a_vae():
    net = Net(HintFormat(pixels=1, latent=FORMAT))
    with pytest.raises(UnsupportedOption, match=r"takes an encoded picture.*with a vae input"):
        resolved([controlled(1.0, False)], [], a_setting(net=net))
