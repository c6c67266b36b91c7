"""The jobs that the prediction and the live server get."""

from scripts.calibrate import SCENARIOS, Draw, Server


def test_every_scenario_has_its_jobs_and_none_comes_twice():
    draw = Draw(4, 8, 0)
    for name in SCENARIOS:
        first, second = draw.scenario(name, 12), draw.scenario(name, 12)
        assert len(first) == 12
        assert not set(first) & set(second)


def test_all_users_submit_the_same_and_reworked_images_share_their_first_pass():
    draw = Draw(4, 8, 0)
    assert len(set(draw.scenario("sd-same", 8))) == 2
    assert len({job.runs[0] for job in draw.scenario("sd-iterate", 8)}) == 4


def test_a_job_becomes_a_prompt_with_its_lora_and_its_samplers():
    server = Server("http://127.0.0.1:1", ["a", "b"], ["l0", "l1"], 64)
    (job, *_) = Draw(1, 8, 0).scenario("sd-iterate", 1)
    prompt = server._prompt(job)
    assert prompt["51"]["inputs"]["latent_image"] == ["50", 0]
    assert prompt["6"]["inputs"]["samples"] == ["51", 0]
    lora = server._prompt(Draw(1, 8, 0).plain(lora=1))
    assert lora["8"]["inputs"]["lora_name"] == "l1"
    assert lora["2"]["inputs"]["clip"] == ["8", 1]
