import argparse
import os
import re
from pathlib import Path

import pytest

from backend.settings import Cache, Settings
from web.flags import add_flags, settings_from, without_effect

CONTRACT = Path(os.environ.get("TESSERA_SHARED", "../shared")) / "contract" / "cli.md"
# a value for every flag that wants one
VALUES = {
    "--tls-keyfile": "k",
    "--tls-certfile": "c",
    "--listen": "127.0.0.1",
    "--verbose": "DEBUG",
    "--preview-method": "auto",
    "--whitelist-custom-nodes": "pack",
}
WANTS_NUMBER = ("--port", "--max-upload-size", "--preview-size", "--cache-lru", "--cuda-device")


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    return parser.parse_args(arguments)


def settings(*arguments: str) -> Settings:
    return settings_from(parsed(*arguments), arguments)


def known(flag: str) -> argparse.Action:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    return next(a for a in parser._actions if flag in a.option_strings)


def test_every_flag_of_the_contract_is_accepted(tmp_path: Path):
    if not CONTRACT.is_file():
        pytest.skip(f"{CONTRACT} is missing: point TESSERA_SHARED at the folder that holds it")
    table = [line.split("|")[1] for line in CONTRACT.read_text().splitlines() if line.startswith("| `--")]
    flags = re.findall(r"--[\w-]+", " ".join(table))
    assert len(flags) > 80
    for flag in flags:
        action = known(flag)
        value = VALUES.get(flag, "1" if flag in WANTS_NUMBER else str(tmp_path))
        if action.nargs in (0, "?", "*"):
            parsed(flag)
        elif action.choices is None or value in action.choices:
            parsed(flag, "8" if flag in WANTS_NUMBER or action.type in (int, float) else value)


def test_defaults_are_comfyuis():
    ours = settings()
    assert (ours.listen, ours.port, ours.max_upload_size) == (("127.0.0.1",), 8188, 100.0)
    assert (ours.preview_method, ours.preview_size, ours.verbose) == ("none", 512, "INFO")
    assert ours.base_directory == Path.cwd()


def test_bare_flags_have_their_meanings():
    ours = settings("--listen", "--enable-cors-header", "--verbose")
    assert (ours.listen, ours.enable_cors_header, ours.verbose) == (("0.0.0.0", "::"), "*", "DEBUG")


def test_addresses_are_a_list():
    assert settings("--listen", "127.0.0.1, ::1").listen == ("127.0.0.1", "::1")


def test_folders_become_absolute(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ours = settings("--base-directory", "base", "--output-directory", "out")
    assert (ours.base_directory, ours.output_directory) == (tmp_path / "base", tmp_path / "out")


def test_model_paths_beside_the_base_come_first(tmp_path: Path):
    beside = tmp_path / "extra_model_paths.yaml"
    beside.write_text("")
    ours = settings("--base-directory", str(tmp_path), "--extra-model-paths-config", "/a", "/b")
    assert ours.extra_model_paths == (beside, Path("/a"), Path("/b"))


@pytest.mark.parametrize(
    ("flags", "field", "value"),
    [
        (["--force-fp32"], "precision", "fp32"),
        (["--force-fp16"], "precision", "fp16"),
        (["--cuda-device", "1,3"], "cuda_devices", (1, 3)),
        (["--workers", "2"], "workers", 2),
        (["--worker-memory", "1.5"], "worker_memory", 3 << 29),
        (["--watchdog", "30"], "watchdog", 30.0),
        (["--no-split"], "split", False),
        (["--max-queue", "9"], "max_queue", 9),
        (["--cache-none"], "cache", Cache("none")),
        (["--cache-classic"], "cache", Cache("classic")),
        (["--cache-lru", "9"], "cache", Cache("lru", entries=9)),
        (["--cache-lru", "0"], "cache", Cache()),
        (["--cache-ram"], "cache", Cache("ram", headroom=4 << 30)),
        (["--cache-ram", "1.5"], "cache", Cache("ram", headroom=3 << 29)),
        (["--cache-disk", "2"], "cache_disk", 2 << 30),
        (["--multi-user"], "multi_user", True),
        (["--disable-metadata"], "disable_metadata", True),
        (["--cpu"], "cpu", True),
        (["--enable-compress-response-body"], "compress_responses", True),
        (["--whitelist-custom-nodes", "a", "b"], "whitelist_custom_nodes", ("a", "b")),
    ],
)
def test_flags_set_their_field(flags: list[str], field: str, value: object):
    assert getattr(settings(*flags), field) == value


@pytest.mark.parametrize(
    "flags",
    [
        ["--unknown"],
        ["--cpu", "--lowvram"],
        ["--force-fp32", "--force-fp16"],
        ["--cache-lru", "3", "--cache-none"],
        ["--fp16-vae", "--bf16-vae"],
        ["--workers", "0"],
        ["--worker-memory", "0"],
        ["--watchdog", "soon"],
        ["--cuda-device", "x"],
        ["--user-directory", "/no/such/folder"],
        ["--preview-method", "fancy"],
    ],
)
def test_wrong_flags_are_refused(flags: list[str], capsys):
    with pytest.raises(SystemExit):
        parsed(*flags)
    assert flags[0] in capsys.readouterr().err


def test_half_of_tls_is_refused():
    with pytest.raises(ValueError, match="together"):
        settings("--tls-keyfile", "k")


def test_flags_without_effect_are_named_and_others_are_not():
    given = parsed(
        "--lowvram",
        "--fast",
        "--reserve-vram",
        "2",
        "--use-sage-attention",
        "--port",
        "1",
        "--disable-api-nodes",
    )
    assert set(without_effect(given)) == {"--lowvram", "--fast", "--reserve-vram", "--use-sage-attention"}
    assert without_effect(parsed()) == []


def test_a_token_is_taken_made_or_refused_and_never_told():
    given = settings("--auth-token", "a-secret-of-mine-42", "--port", "1")
    assert given.auth_token == "a-secret-of-mine-42"
    assert given.argv == ("--auth-token", "***", "--port", "1")
    assert settings("--auth-token=a-secret-of-mine-42").argv == ("--auth-token=***",)
    assert "secret" not in repr(given)
    made = settings("--auth-token")
    assert len(made.auth_token) >= 32
    assert made.auth_token != settings("--auth-token").auth_token
    assert settings().auth_token is None
    for bad in ("short", "with spaces in it all", "ümlauts-are-no-good-here", ""):
        with pytest.raises(SystemExit):
            parsed("--auth-token", bad)
