import pytest

from backend.engine.assets import Asset, Assets, Filter, destination, file_asset, in_order, tag_counts


def an_asset(id: str, **more: object) -> Asset:
    return Asset(id, more.pop("name", f"{id}.png"), **more)


def test_a_row_is_the_asset_again():
    asset = an_asset("a", tags=("input", "x"), hash="blake3:00", metadata={"k": [1]}, deleted=True)
    assets = Assets([asset.row()])
    assert assets._kept == {"a": asset}


def test_a_file_on_disk_has_one_id_for_ever_and_tags_of_its_place():
    model, picture = file_asset("loras", "a/b.safetensors", 3, 7), file_asset("input", "b.png", 3, 7)
    assert model.id == file_asset("loras", "a/b.safetensors", 9, 9).id != picture.id
    assert (model.tags, model.name) == (("models", "model_type:loras"), "b.safetensors")
    assert picture.tags == ("input",)


def test_a_file_that_was_uploaded_or_deleted_is_not_listed_a_second_time():
    found = {a.id: a for a in (file_asset("input", "up.png", 1, 1), file_asset("input", "gone.png", 1, 1))}
    gone = next(a for a in found.values() if a.file == "gone.png")
    uploaded = an_asset("u", root="input", file="up.png")
    assets = Assets()
    assets.take(uploaded)
    assets.take(Asset(**{**gone.row(), "tags": (), "deleted": True}))
    assert assets.listed("", found) == [uploaded]
    assert assets.get(gone.id, "", found) is None


def test_each_user_sees_what_is_theirs_and_what_is_nobodys():
    assets = Assets()
    for asset in (an_asset("mine", owner="me"), an_asset("theirs", owner="you"), an_asset("ours")):
        assets.take(asset)
    assert [a.id for a in assets.listed("me", {})] == ["mine", "ours"]
    assert assets.get("theirs", "me", {}) is None


@pytest.mark.parametrize(
    ("wanted", "taken"),
    [
        (Filter(include=frozenset({"a"})), True),
        (Filter(include=frozenset({"a", "c"})), False),
        (Filter(exclude=frozenset({"b"})), False),
        (Filter(name="CAT_"), True),
        (Filter(name="catx"), False),
        (Filter(metadata={"epoch": 2}), True),
        (Filter(metadata={"epoch": [1, 2]}), True),
        (Filter(metadata={"flags": "x"}), True),
        (Filter(metadata={"absent": None}), True),
        (Filter(metadata={"epoch": 1}), False),
    ],
)
def test_a_filter_takes_what_fits(wanted: Filter, taken: bool):
    asset = an_asset("1", name="cat_1.png", tags=("a", "b"), metadata={"epoch": 2, "flags": ["x"]})
    assert wanted.takes(asset) == taken


def test_lists_are_sorted_and_tags_counted():
    small, large = an_asset("s", size=1, tags=("x",)), an_asset("l", size=2, tags=("x", "y"))
    assert in_order([large, small], "size", descending=False) == [small, large]
    assert tag_counts([small, large], ["zero"]) == {"x": 2, "y": 1, "zero": 0}


@pytest.mark.parametrize(
    ("tags", "root"),
    [(("input", ".."), "input"), (("models", "model_type:loras"), "loras"), (("x", "output"), "output")],
)
def test_tags_choose_where_an_upload_goes(tags: tuple[str, ...], root: str):
    assert destination(tags, ["loras", "custom_nodes"]) == root


@pytest.mark.parametrize(
    "tags",
    ["", "x", "input output", "models", "models model_type:custom_nodes", "models model_type:no"],
)
def test_tags_that_choose_nothing_are_refused(tags: str):
    with pytest.raises(ValueError, match="exactly one"):
        destination(tags.split(), ["loras", "custom_nodes"])
