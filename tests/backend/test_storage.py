import os
import threading
import time
from pathlib import Path

import pytest

from backend.errors import BadFile
from backend.settings import Settings
from backend.storage import OutsideFolder, Storage, split_annotation

NOON = time.mktime((2026, 3, 7, 9, 5, 4, 0, 0, -1))


@pytest.fixture
def storage(tmp_path):
    made = Storage(Settings(base_directory=tmp_path), now=lambda: NOON)
    made.prepare()
    return made


def put(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


# -- model folders


def test_files_of_a_kind_are_found_in_all_its_folders_and_sorted(storage):
    put(storage.models / "text_encoders" / "z.safetensors")
    put(storage.models / "clip" / "sub" / "a.PT")
    put(storage.output / "clip" / "saved.safetensors")
    put(storage.models / "clip" / "notes.txt")
    put(storage.models / "clip" / ".git" / "hidden.pt")
    assert storage.files("text_encoders") == ["saved.safetensors", "sub/a.PT", "z.safetensors"]
    assert storage.files("clip") == storage.files("text_encoders")


def test_linked_folders_are_followed_but_not_round_in_circles(storage, tmp_path):
    put(tmp_path / "elsewhere" / "m.ckpt")
    (storage.models / "checkpoints" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "elsewhere")
    assert storage.files("checkpoints") == ["link/m.ckpt"]


def test_a_listing_shows_files_that_come_and_go(tmp_path):
    storage = Storage(Settings(base_directory=tmp_path))
    storage.prepare()
    folder = storage.models / "loras"
    old = time.time() - 60
    os.utime(folder, (old, old))
    assert storage.files("loras") == []
    assert storage.files("loras") == []  # from the kept listing
    path = put(folder / "a.safetensors")
    assert storage.files("loras") == ["a.safetensors"]
    path.unlink()
    assert storage.files("loras") == []


def test_diffusion_models_are_looked_for_in_unet_first(storage):
    put(storage.models / "diffusion_models" / "m.safetensors", b"second")
    first = put(storage.models / "unet" / "m.safetensors", b"first")
    assert storage.find("unet", "m.safetensors") == first


def test_a_file_carries_its_identity(storage):
    path = put(storage.models / "vae" / "v.safetensors", b"12345")
    file = storage.file("vae", "v.safetensors")
    assert (file.path, file.size, file.inode) == (str(path), 5, path.stat().st_ino)
    put(path, b"1234567")
    assert storage.file("vae", "v.safetensors") != file


def test_a_missing_file_names_the_folders_and_similar_names(storage):
    put(storage.models / "vae" / "sdxl_vae.safetensors")
    with pytest.raises(BadFile, match=r"(?s)models/vae.*Did you mean 'sdxl_vae.safetensors'") as caught:
        storage.find("vae", "sdxl_vea.safetensors")
    assert caught.value.code == "bad_file"


@pytest.mark.parametrize("name", ["../../secret.safetensors", "/etc/passwd", "a\0b"])
def test_a_model_name_does_not_climb_out_of_its_folder(storage, tmp_path, name):
    put(tmp_path / "secret.safetensors")
    with pytest.raises(BadFile, match="no such file among the vae"):
        storage.find("vae", name)


def test_an_unknown_kind_is_refused(storage):
    with pytest.raises(BadFile, match="is no model folder"):
        storage.files("nonsense")


# -- extra_model_paths


def test_extra_folders_are_read_from_yaml(tmp_path):
    config = tmp_path / "conf" / "extra.yaml"
    put(
        config,
        b"a111:\n  base_path: ../webui\n  checkpoints: models/SD\n  loras: |\n    Lora\n    LyCORIS\n"
        b"mine:\n  is_default: true\n  clip: first\n  new_kind: things\nempty:\n",
    )
    storage = Storage(Settings(base_directory=tmp_path, extra_model_paths=(config,)))
    webui = tmp_path / "webui"
    assert storage.folders("checkpoints")[:2] == [
        tmp_path / "models" / "checkpoints",
        webui / "models" / "SD",
    ]
    assert storage.folders("loras")[1:3] == [webui / "Lora", webui / "LyCORIS"]
    assert storage.folders("text_encoders")[0] == tmp_path / "conf" / "first"
    put(tmp_path / "conf" / "things" / "any.thing")
    assert storage.files("new_kind") == ["any.thing"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"a: [", "is no readable YAML"),
        (b"- a\n", "has no sections"),
        (b"a: text\n", "section 'a' has no keys"),
    ],
)
def test_a_broken_yaml_is_refused_by_name(tmp_path, text, said):
    config = put(tmp_path / "extra.yaml", text)
    with pytest.raises(BadFile, match=f"extra.yaml: {said}"):
        Storage(Settings(base_directory=tmp_path, extra_model_paths=(config,)))


def test_a_missing_yaml_is_refused(tmp_path):
    with pytest.raises(BadFile, match="No such file"):
        Storage(Settings(base_directory=tmp_path, extra_model_paths=(tmp_path / "none.yaml",)))


# -- places


def test_folders_may_be_given_one_by_one(tmp_path):
    settings = Settings(
        base_directory=tmp_path, output_directory=tmp_path / "o", temp_directory=tmp_path / "t"
    )
    storage = Storage(settings)
    assert (storage.output, storage.temp, storage.input) == (
        tmp_path / "o",
        tmp_path / "t" / "temp",
        tmp_path / "input",
    )


def test_preparing_empties_the_temp_folder_alone(storage, tmp_path):
    put(storage.temp / "sub" / "old.png")
    kept = put(storage.output / "kept.png")
    Storage(Settings(base_directory=tmp_path)).prepare()
    assert list(storage.temp.iterdir()) == []
    assert kept.exists()


def test_input_files_are_top_level_and_by_class(storage):
    for name in ("b.png", "a.WEBP", "clip.mp4", "x.latent", "sub/c.png"):
        put(storage.input / name)
    assert storage.input_files("image") == ["a.WEBP", "b.png"]
    assert storage.input_files() == ["a.WEBP", "b.png", "clip.mp4", "x.latent"]


@pytest.mark.parametrize(
    ("subfolder", "name"),
    [("..", "x.png"), ("", "../x.png"), ("/etc", "passwd"), ("", "/etc/passwd"), ("a/../../b", "c"),
     ("", "C:\\x"), ("", "a\0.png"), ("link", "x.png")],
)  # fmt: skip
def test_a_name_that_leads_out_is_refused(storage, tmp_path, subfolder, name):
    put(tmp_path / "x.png")
    (storage.input / "link").symlink_to(tmp_path)
    with pytest.raises(OutsideFolder, match="outside the input folder"):
        storage.resolve("input", subfolder, name)


def test_a_name_within_is_resolved(storage):
    assert storage.resolve("output", "a/b", "c.png") == storage.output / "a" / "b" / "c.png"
    assert storage.resolve("input", "", "..c.png") == storage.input / "..c.png"


def test_only_the_three_folders_are_open(storage):
    with pytest.raises(BadFile, match="is no folder to read from"):
        storage.resolve("user", "", "x")


@pytest.mark.parametrize(
    ("given", "name", "kind"),
    [("a b.png [output]", "a b.png", "output"), ("a.png[temp]", "a.png", "temp"), ("a.png", "a.png", None),
     ("a [input].png", "a [input].png", None), ("a.png [models]", "a.png [models]", None)],
)  # fmt: skip
def test_annotations_are_split_off(given, name, kind):
    assert split_annotation(given) == (name, kind)


def test_a_digest_follows_the_content(storage):
    path = put(storage.input / "a.png", b"one")
    first = storage.digest("a.png")
    put(storage.output / "b.png", b"one")
    assert storage.digest("b.png [output]") == first
    put(path, b"two")
    assert storage.digest("a.png") != first
    assert not storage.has("none.png")
    assert not storage.has("../models")


# -- names of saved files


def save(storage: Storage, prefix: str, count: int = 1) -> list[str]:
    with storage.reserve("output", prefix, count, width=64, height=32) as slots:
        for i in range(count):
            put(slots.folder / slots.file(i))
        return [os.path.join(slots.subfolder, slots.file(i)) for i in range(count)]


def test_counters_go_on_after_the_highest(storage):
    assert save(storage, "ComfyUI", 2) == ["ComfyUI_00001_.png", "ComfyUI_00002_.png"]
    put(storage.output / "ComfyUI_00041_x.webp")
    put(storage.output / "ComfyUI_extra_00099_.png")
    put(storage.output / "ComfyUIx_00098_.png")
    assert save(storage, "ComfyUI") == ["ComfyUI_00042_.png"]
    (storage.output / "ComfyUI_00042_.png").unlink()
    (storage.output / "ComfyUI_00041_x.webp").unlink()
    assert save(storage, "ComfyUI") == ["ComfyUI_00003_.png"]


def test_a_prefix_may_have_folders_and_dates(storage):
    assert save(storage, "%year%-%month%/%day%_%hour%%minute%%second%_%width%x%height%") == [
        "2026-03/07_090504_64x32_00001_.png"
    ]
    assert save(storage, str(storage.output / "abs" / "name")) == ["abs/name_00001_.png"]


def test_batch_numbers_do_not_overwrite_earlier_files(storage):
    assert save(storage, "b%batch_num%", 2) == ["b0_00001_.png", "b1_00002_.png"]
    assert save(storage, "b%batch_num%", 2) == ["b0_00003_.png", "b1_00004_.png"]


@pytest.mark.parametrize("prefix", ["../x", "a/../../x", "/etc/x", "..", "a\0b", "C:\\x"])
def test_a_prefix_that_leads_out_is_refused(storage, prefix):
    with pytest.raises(OutsideFolder, match="outside the output folder"):
        save(storage, prefix)


def test_threads_saving_under_one_prefix_never_share_a_name(storage):
    names: list[str] = []
    gate = threading.Barrier(8)

    def work() -> None:
        gate.wait()
        for _ in range(10):
            names.extend(save(storage, "same/prefix", 2))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(names) == [f"same/prefix_{i:05}_.png" for i in range(1, 161)]


def test_a_failed_save_gives_its_numbers_back(storage):
    with pytest.raises(RuntimeError, match="disk"), storage.reserve("output", "p"):
        raise RuntimeError("disk")
    assert save(storage, "p") == ["p_00001_.png"]


def test_temporary_names_are_never_used_twice(storage):
    with storage.reserve("temp", "t", 2) as first:
        pass
    with storage.reserve("temp", "t") as second:
        assert second.first == first.first + 2
