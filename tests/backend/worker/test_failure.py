from backend.worker.failure import text


def test_texts_of_inputs_are_short():
    assert text("x" * 5000).endswith(" ...")
    assert len(text(list(range(10000)))) < 200
    assert text({"a": [1, None]}) == "{'a': [1, None]}"
