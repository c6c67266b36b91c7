import torch

from backend.types import OpKey
from backend.worker.failure import failed, text


def test_texts_of_inputs_are_short():
    assert text("x" * 5000).endswith(" ...")
    assert len(text(list(range(10000)))) < 200
    assert text({"a": [1, None]}) == "{'a': [1, None]}"


def test_a_node_that_runs_out_of_memory_says_what_to_do():
    for error in (MemoryError("no room"), torch.OutOfMemoryError("no room")):
        message = failed(OpKey("k"), error, {}, ()).message
        assert message.startswith("no room\n")
        assert "batch size" in message
    assert failed(OpKey("k"), ValueError("no"), {}, ()).message == "no"
