"""A worker's main thread, given its mail by hand."""

import os
from queue import SimpleQueue

import pytest
import torch

from backend.components import Weights
from backend.guiders import CfgGuider, Noise, Sampler, Schedule
from backend.ops import DecodeLatent, Denoise, EncodePixels, EncodeText, ModelSigmas
from backend.references import Clip, Model, Ref, Vae
from backend.storage import Storage
from backend.types import Cond, Latent, OpKey
from backend.worker.exchange import Value
from backend.worker.loop import Worker, find_embedding
from backend.worker.messages import (
    CancelOp,
    Done,
    Failed,
    OpCancelled,
    Preview,
    Progress,
    RunOp,
    Setup,
    Started,
    Table,
    Unload,
)


class Mail:
    """A mailbox without a process."""

    pid = 1

    def __init__(self):
        self.inbox, self.sent = SimpleQueue(), []

    def send(self, message):
        self.sent.append(message)

    def of(self, *kinds):
        return [message for message in self.sent if isinstance(message, kinds)]


class Desk:
    """A worker on the tiny checkpoint."""

    def __init__(self, settings):
        self.mail = Mail()
        self.worker = Worker(self.mail, Setup(settings, 0, 1, os.getpid()))
        file = Storage(settings).file("checkpoints", "tiny.safetensors")
        self.model = Model(Weights("denoiser", "tiny", (file,)))
        self.clip = Clip((Weights("text_encoder", "tiny", (file,)),))
        self.vae = Vae(Weights("vae", "tiny", (file,)))

    def denoise(self, seed=0, steps=4, **changed):
        guider = CfgGuider(self.model, Ref(OpKey("text")), Ref(OpKey("text")), 2.0)
        sigmas = Schedule("normal", steps)
        fields = {"latent": Latent(torch.zeros(1, 4, 8, 8)), "sampler": Sampler("euler"), **changed}
        return Denoise(guider, noise=Noise(seed), sigmas=sigmas, **fields)

    def give(self, *messages):
        for message in messages:
            self.mail.inbox.put(message)

    def turns(self, count):
        with torch.inference_mode():
            for _ in range(count):
                self.worker.turn()

    def result(self, key):
        (done,) = [message for message in self.mail.of(Done) if message.key == key]
        value = Value.attach(done.value)
        result = value.get()
        value.close()
        assert done.lengths == tuple(map(len, result))
        return result


@pytest.fixture
def desk(tiny_settings):
    return Desk(tiny_settings)


@pytest.fixture
def text(desk):
    """The encoded prompt as the input of other ops."""
    desk.give(RunOp(OpKey("text"), EncodeText(desk.clip, "a (red:1.2) fox"), {}))
    desk.turns(1)
    ((conditioning,),) = desk.result("text")
    assert isinstance(conditioning[0], Cond)
    value = Value.of(((conditioning,),))
    yield {OpKey("text"): value.segment()}
    value.close()


def test_a_prompt_becomes_an_image(desk, text):
    desk.give(RunOp(OpKey("d"), desk.denoise(), text, "latent2rgb", 64))
    desk.turns(4)
    samples, estimate = desk.result("d")
    assert tuple(samples[0].samples.shape) == (1, 4, 8, 8)
    assert torch.allclose(samples[0].samples, estimate[0].samples, atol=1e-5)  # it ends at sigma 0
    assert [(p.value, p.max) for p in desk.mail.of(Progress)] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert desk.mail.of(Preview)
    latent = Value.of((samples,))
    desk.give(RunOp(OpKey("i"), DecodeLatent(desk.vae, Ref(OpKey("d"))), {OpKey("d"): latent.segment()}))
    desk.turns(1)
    latent.close()
    ((image,),) = desk.result("i")
    assert tuple(image.shape) == (1, 64, 64, 3)
    desk.give(RunOp(OpKey("e"), EncodePixels(desk.vae, image), {}))
    desk.turns(1)
    ((back,),) = desk.result("e")
    assert tuple(back.samples.shape) == (1, 4, 8, 8)


def test_two_jobs_share_weights_and_passes_and_equal_their_solo_runs(desk, text):
    desk.give(*(RunOp(OpKey(f"solo{seed}"), desk.denoise(seed), text) for seed in (1,)))
    desk.turns(4)
    desk.give(*(RunOp(OpKey(f"both{seed}"), desk.denoise(seed), text) for seed in (1, 2)))
    desk.turns(4)
    table = desk.mail.of(Table)[-1]
    assert (table.forwards, table.rows, table.shared, table.largest) == (8, 24, 4, 4)
    assert sorted(r.label.split()[0] for r in table.resident) == ["denoiser", "text_encoder"]
    assert table.info.total > 0
    solo, both, other = (desk.result(k)[0][0].samples for k in ("solo1", "both1", "both2"))
    assert torch.allclose(solo, both, atol=1e-4)
    assert not torch.allclose(solo, other, atol=1e-2)


def test_a_cancelled_run_leaves_and_another_goes_on(desk, text):
    desk.give(RunOp(OpKey("a"), desk.denoise(1), text), RunOp(OpKey("b"), desk.denoise(2), text))
    desk.turns(2)
    desk.give(CancelOp(OpKey("a")), CancelOp(OpKey("unknown")))
    desk.turns(2)
    assert [message.key for message in desk.mail.of(OpCancelled)] == ["a"]
    assert desk.result("b")
    assert not [message for message in desk.mail.of(Done, Failed) if message.key == "a"]


def test_a_waiting_whole_op_is_dropped_when_cancelled(desk):
    encode = EncodeText(desk.clip, "x")
    desk.give(RunOp(OpKey("a"), encode, {}), RunOp(OpKey("b"), encode, {}), CancelOp(OpKey("b")))
    desk.turns(1)
    assert [message.key for message in desk.mail.of(OpCancelled)] == ["b"]
    assert [message.key for message in desk.mail.of(Started)] == ["a"]
    assert desk.result("a")


def test_whole_ops_run_between_the_steps_of_others(desk, text):
    desk.give(RunOp(OpKey("d"), desk.denoise(steps=6), text))
    desk.turns(1)
    desk.give(RunOp(OpKey("t"), EncodeText(desk.clip, "meanwhile"), {}))
    desk.turns(5)
    order = [message.key for message in desk.mail.of(Done)]
    assert order == ["text", "t", "d"]


def test_sigmas_are_read_from_the_models_header_alone(desk):
    desk.give(RunOp(OpKey("s"), ModelSigmas(desk.model, Schedule("karras", 5, 0.5)), {}))
    desk.turns(1)
    ((sigmas,),) = desk.result("s")
    assert len(sigmas) == 6
    assert sigmas[-1] == 0
    assert desk.mail.of(Table) == []  # nothing was loaded


def test_unloading_drops_what_is_named_and_it_comes_back_when_needed(desk, text):
    desk.give(RunOp(OpKey("d"), desk.denoise(steps=3), text))
    desk.turns(1)
    desk.give(Unload((desk.model.weights.id,)))
    desk.turns(1)
    assert [r.component for r in desk.mail.of(Table)[-1].resident] == [desk.clip.weights[0].id]
    desk.turns(1)
    assert desk.result("d")  # the running op kept its own
    desk.give(Unload(), RunOp(OpKey("d2"), desk.denoise(steps=1), text))
    desk.turns(1)
    assert desk.result("d2")
    assert [r.component for r in desk.mail.of(Table)[-1].resident] == [desk.model.weights.id]


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"sampler": Sampler("magic")}, "sampler_name='magic' is not supported"),
        ({"latent": Latent(torch.ones(1, 16, 8, 8))}, "latents have 4"),
        ({"latent": Ref(OpKey("gone"))}, "gone"),
    ],
)
def test_what_cannot_be_honoured_is_refused_and_the_worker_goes_on(desk, text, changed, says):
    desk.give(RunOp(OpKey("bad"), desk.denoise(**changed), text))
    desk.turns(1)
    (failure,) = desk.mail.of(Failed)
    assert says in failure.message
    desk.give(RunOp(OpKey("good"), desk.denoise(steps=1), text))
    desk.turns(1)
    assert desk.result("good")


def test_an_empty_latent_takes_the_models_channels(desk, text):
    desk.give(RunOp(OpKey("d"), desk.denoise(steps=1, latent=Latent(torch.zeros(2, 16, 8, 8))), text))
    desk.turns(1)
    assert tuple(desk.result("d")[0][0].samples.shape) == (2, 4, 8, 8)


def test_embeddings_are_found_with_or_without_their_ending(tiny_settings):
    storage = Storage(tiny_settings)
    folder = storage.folders("embeddings")[0]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mood.safetensors").touch()
    assert find_embedding(storage, "mood") == find_embedding(storage, "mood.safetensors")
    assert find_embedding(storage, "mood").endswith("mood.safetensors")
    assert find_embedding(storage, "other") is None
