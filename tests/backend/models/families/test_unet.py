"""The walk through a UNet: diffusers' own results, and rows that alter it without disturbing others."""

from pathlib import Path

import pytest
import torch

from backend.models.additions import Additions, Alteration, Draws, Residuals, Row
from backend.models.denoiser import load_denoiser
from backend.patches import Downscale, FreeU, HyperTile, TokenMerging
from tests.backend.models.conftest import CPU, relative, weights_of

FREE = FreeU(1.3, 1.4, 0.9, 0.2, 2)
DEEP = Downscale(2, 2.0, 0.0, 0.35, True, "bicubic", "bicubic")


@pytest.fixture(scope="module")
def denoiser(tiny: Path):
    return load_denoiser(weights_of(tiny, "denoiser"), CPU, torch.float32)


def some_rows(rows: int, size: tuple[int, int] = (8, 8)) -> tuple[torch.Tensor, ...]:
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(rows, 4, *size, generator=rng)
    return x, torch.linspace(10, 900, rows), torch.randn(rows, 77, 64, generator=rng)


def altered(denoiser, *alterations, size=(8, 8)):
    rows = tuple(Row(alteration) for alteration in alterations)
    return denoiser.forward(*some_rows(len(rows), size), additions=Additions(rows=rows))


@pytest.mark.parametrize("size", [(8, 8), (7, 9)])
def test_a_plain_pass_is_diffusers_own(denoiser, size):
    x, timesteps, tokens = some_rows(2, size)
    with torch.no_grad():
        (wanted,) = denoiser.module(x, timesteps, tokens, return_dict=False)
    assert relative(denoiser.forward(x, timesteps, tokens), wanted) < 1e-6


def test_residuals_are_added_where_diffusers_adds_them(denoiser):
    x, timesteps, tokens = some_rows(2)
    rng = torch.Generator().manual_seed(2)
    shapes = [(32, 8, 8), (32, 8, 8), (32, 4, 4), (64, 4, 4)]
    skips = tuple(torch.randn(2, *shape, generator=rng) for shape in shapes)
    middle = torch.randn(2, 64, 4, 4, generator=rng)
    with torch.no_grad():
        (wanted,) = denoiser.module(
            x,
            timesteps,
            tokens,
            down_block_additional_residuals=skips,
            mid_block_additional_residual=middle,
            return_dict=False,
        )
    out = denoiser.forward(x, timesteps, tokens, additions=Additions(Residuals(skips, middle)))
    assert relative(out, wanted) < 1e-6


@pytest.mark.parametrize(
    "alteration",
    [Alteration((FREE,)), Alteration((FreeU(1.1, 1.2, 0.9, 0.2, 1),)), Alteration(perturbed=True)],
    ids=["freeu 2", "freeu 1", "perturbed"],
)
def test_an_altered_row_is_as_if_alone_and_its_neighbours_are_as_without_it(denoiser, alteration):
    plain = denoiser.forward(*some_rows(3))
    mixed = altered(denoiser, Alteration(), alteration, Alteration())
    every = altered(denoiser, alteration, alteration, alteration)
    assert relative(mixed[1:2], every[1:2]) < 1e-5
    assert relative(mixed[1:2], plain[1:2]) > 1e-4
    assert relative(mixed[::2], plain[::2]) < 1e-6


def test_a_watched_row_changes_nothing_and_tells_where_attention_went(denoiser):
    seen: dict[int, torch.Tensor] = {}
    rows = (Row(), Row(Alteration(watcher=seen.__setitem__), number=5))
    out = denoiser.forward(*some_rows(2), additions=Additions(rows=rows))
    assert torch.equal(out, denoiser.forward(*some_rows(2)))
    assert list(seen) == [5]
    assert tuple(seen[5].shape) == (16,)
    assert float(seen[5].sum()) == pytest.approx(16.0, rel=1e-4)  # every place gives away 1 in all


def test_a_lower_resolution_inside_keeps_the_outputs_size_and_is_for_all_rows(denoiser):
    deep = Alteration((DEEP,))
    out = altered(denoiser, deep, deep)
    assert out.shape == some_rows(2)[0].shape
    assert relative(out, denoiser.forward(*some_rows(2))) > 1e-3
    assert deep.layout != Alteration((FREE,)).layout == Alteration().layout


def test_a_factor_of_one_is_no_change(denoiser):
    same = Alteration((Downscale(2, 1.0, 0.0, 1.0, False, "bilinear", "bilinear"),))
    assert relative(altered(denoiser, same), denoiser.forward(*some_rows(1))) < 1e-5


def test_at_a_lower_resolution_residuals_of_the_shrunk_part_are_left_out(denoiser):
    x, timesteps, tokens = some_rows(1)
    shapes = [(32, 8, 8), (32, 8, 8), (32, 4, 4), (64, 4, 4)]
    early, late = (
        Residuals(
            tuple(torch.full((1, *shape), at[i]) for i, shape in enumerate(shapes)),
            torch.full((1, 64, 4, 4), at[4]),
        )
        for at in ((1.0, 1.0, 1.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0, 1.0))
    )
    rows = (Row(Alteration((DEEP,))),)
    shrunk = denoiser.forward(x, timesteps, tokens, additions=Additions(rows=rows))
    with_late = denoiser.forward(x, timesteps, tokens, additions=Additions(late, rows))
    with_early = denoiser.forward(x, timesteps, tokens, additions=Additions(early, rows))
    assert torch.equal(with_late, shrunk)
    assert relative(with_early, shrunk) > 1e-3


def sharing(*patches, seed=5):
    return Alteration(sharing=(patches, Draws(torch.Generator().manual_seed(seed))))


TILED = HyperTile(32, 4, 1, False)
MERGED = TokenMerging(0.5)


@pytest.mark.parametrize("patches", [(TILED,), (MERGED,), (TILED, MERGED)], ids=["tiles", "merged", "both"])
def test_a_row_that_shares_attention_is_as_if_alone_and_its_neighbours_are_as_without_it(denoiser, patches):
    plain = denoiser.forward(*some_rows(3))
    mixed = altered(denoiser, Alteration(), sharing(*patches), sharing(*patches, seed=9))
    every = altered(denoiser, *[sharing(*patches)] * 3)
    assert relative(mixed[1:2], every[1:2]) < 1e-5
    assert relative(mixed[1:2], plain[1:2]) > 1e-4
    assert relative(mixed[:1], plain[:1]) < 1e-6


def test_rows_of_one_evaluation_share_its_random_choices_whichever_pass_they_are_in(denoiser):
    shared = sharing(MERGED)
    x, timesteps, tokens = some_rows(2)
    both = altered(denoiser, shared, shared)
    rows = (Row(shared),)
    apart = [
        denoiser.forward(
            x[i : i + 1], timesteps[i : i + 1], tokens[i : i + 1], additions=Additions(rows=rows)
        )
        for i in (0, 1)
    ]
    assert relative(torch.cat(apart), both) < 1e-5


def test_merging_nothing_is_no_change(denoiser):
    assert torch.equal(altered(denoiser, sharing(TokenMerging(0.0))), denoiser.forward(*some_rows(1)))
