"""Users who share a model share its weights and its forward passes, and get what they would get alone."""

import numpy as np
import pytest
from PIL import Image

from tests.build import a_prompt
from tests.serving import Server, succeeded

pytestmark = pytest.mark.server


def table(server: Server) -> dict:
    """Of the one worker."""
    (found,) = [d["table"] for d in server.get("/tessera/pool")["devices"] if d["id"] != "host"]
    return found


def image(server: Server, entry) -> np.ndarray:
    assert succeeded(entry), entry["status"]
    return np.asarray(Image.open(server.outputs(entry)[0]).convert("RGB"), dtype=np.int16)


def test_two_jobs_hold_one_copy_of_the_weights_share_forwards_and_equal_their_solo_runs(own_server: Server):
    server = own_server.start()  # whether sharing pays it has not measured beside other tests
    prompts = [
        a_prompt(seed=seed, text=text, steps=12) for seed, text in ((1, "a barn"), (2, "two boats at sea"))
    ]
    alone = [image(server, server.run(prompt)) for prompt in prompts]
    before = table(server)

    # results are kept: without this, nothing would run again
    server.post("/free", {"free_memory": True})
    jobs = [server.submit(prompt) for prompt in prompts]
    together = [image(server, server.finished(job)) for job in jobs]

    after = table(server)
    assert after["shared"] > before["shared"]
    assert after["largest"] >= 4  # both jobs' positive and negative rows
    assert after["forwards"] - before["forwards"] < 2 * 12  # fewer than the two jobs take one after the other
    residents = [r["component"] for r in after["resident"]]
    assert len(residents) == len(set(residents))
    assert {r.split("@")[0] for r in residents} == {"denoiser", "text_encoder", "vae"}
    for solo, shared in zip(alone, together, strict=True):
        assert np.abs(solo - shared).max() <= 1  # kernels depend on the batch size in the last bits
    assert np.abs(together[0] - together[1]).max() > 1  # and rows did not change places


def test_the_same_prompt_of_two_users_is_computed_once(server: Server):
    prompt, before = a_prompt(seed=9, steps=6), table(server)["forwards"]
    jobs = [server.submit(prompt, client_id=client) for client in ("ann", "ben")]
    first, second = (server.finished(job) for job in jobs)
    assert np.array_equal(image(server, first), image(server, second))
    assert table(server)["forwards"] - before == 6
    # each user has a file of their own
    assert server.outputs(first)[0] != server.outputs(second)[0]
