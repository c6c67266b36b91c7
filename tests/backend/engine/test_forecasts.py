"""When a job will be done, as the engine tells it."""

from tests.backend.engine.test_board import pool  # noqa: F401
from tests.backend.graph.toys import an_image_prompt


async def test_nothing_is_said_before_a_pass_was_timed(pool):  # noqa: F811
    bench = await pool()
    await bench.submit(an_image_prompt())
    assert bench.engine.forecasts() == {}


async def test_a_job_behind_others_is_told_to_take_longer_and_the_tab_shows_it(pool):  # noqa: F811
    bench = await pool()
    bench.engine._board.pool.profile.observe_step("denoiser", 2, 0.5)
    first = await bench.submit(an_image_prompt(seed=1), "ann")
    second = await bench.submit(an_image_prompt(seed=2), "ann")
    forecasts = bench.engine.forecasts()
    assert set(forecasts) == {first, second}
    assert 0 < forecasts[first].seconds < forecasts[second].seconds
    assert not forecasts[first].known
    shown = bench.engine.pool_view().forecasts
    assert [view.id for view in shown] == [first, second]
    assert shown[0].low < shown[0].seconds < shown[0].high


async def test_what_jobs_took_makes_the_next_estimates(pool):  # noqa: F811
    bench = await pool()
    bench.engine._board.pool.profile.observe_step("denoiser", 2, 0.5)
    for seed in range(12):
        await bench.submit(an_image_prompt(seed=seed), "ann")
        await bench.settle()  # what a job needs starts in the event loop's next turn
        for kind in ("EncodeText", "Denoise", "DecodeLatent"):
            bench.clock.advance(20.0)
            for worker in bench.workers:
                for key in [k for k, op in worker.running.items() if type(op).__name__ == kind]:
                    worker.finish(key)
            await bench.settle()
    assert bench.engine.remaining() == 0
    job = await bench.submit(an_image_prompt(seed=99), "ann")
    forecast = bench.engine.forecasts()[job]
    assert forecast.known
    assert forecast.low <= forecast.seconds <= forecast.high
