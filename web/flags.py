"""The command line: ComfyUI's flags, all of them, and ours. Meanings: contract, cli.md."""

import argparse
import math
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from backend.settings import Cache, HashName, Precision, PreviewMethod, Settings

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
ALL_ADDRESSES = "0.0.0.0,::"
SHORTEST_TOKEN = 16  # characters
NEW_TOKEN = True  # of --auth-token without a value: one is made

# Flags of ComfyUI that change nothing here, so that launch scripts go on working: exclusive switches first.
_IGNORED_GROUPS = (
    ("--cuda-malloc", "--disable-cuda-malloc"),
    (
        "--fp64-unet",
        "--fp32-unet",
        "--bf16-unet",
        "--fp16-unet",
        "--fp8_e4m3fn-unet",
        "--fp8_e5m2-unet",
        "--fp8_e8m0fnu-unet",
    ),
    ("--fp16-vae", "--fp32-vae", "--bf16-vae"),
    ("--fp8_e4m3fn-text-enc", "--fp8_e5m2-text-enc", "--fp16-text-enc", "--fp32-text-enc", "--bf16-text-enc"),
    (
        "--use-split-cross-attention",
        "--use-quad-cross-attention",
        "--use-pytorch-cross-attention",
        "--use-sage-attention",
        "--use-flash-attention",
    ),
    ("--force-upcast-attention", "--dont-upcast-attention"),
)
_IGNORED_SWITCHES = (
    *("--cpu-vae", "--force-channels-last", "--disable-ipex-optimize", "--supports-fp8-compute"),
    *("--disable-xformers", "--disable-smart-memory", "--async-offload", "--disable-async-offload"),
    *(
        "--disable-pinned-memory",
        "--force-non-blocking",
        "--deterministic",
        "--mmap-torch-files",
        "--disable-mmap",
    ),
    *("--enable-manager", "--disable-manager-ui", "--enable-manager-legacy-ui", "--disable-assets-autoscan"),
)
_VRAM = ("--gpu-only", "--highvram", "--normalvram", "--lowvram", "--novram")
_FAST = ("fp16_accumulation", "fp8_matrix_mult", "cublas_ops", "autotune")
_IGNORED_VALUES = {
    "--front-end-version": "owner/repository@version",
    "--default-device": "device id",
    "--directml": "device id",
    "--oneapi-device-selector": "selector",
    "--reserve-vram": "GB",
    "--comfy-api-base": "URL",
    "--database-url": "URL",
}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Every flag of ComfyUI and ours."""
    _network(parser)
    _folders(parser)
    _running(parser)
    _caching(parser)
    _ignored(parser)


def _network(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("network")
    group.add_argument("--listen", nargs="?", const=ALL_ADDRESSES, default="127.0.0.1", metavar="IP[,IP]")
    group.add_argument("--port", type=int, default=8188)
    group.add_argument("--tls-keyfile", type=Path, metavar="FILE")
    group.add_argument("--tls-certfile", type=Path, metavar="FILE")
    group.add_argument("--enable-cors-header", nargs="?", const="*", metavar="ORIGIN")
    group.add_argument("--max-upload-size", type=float, default=100.0, metavar="MB")
    group.add_argument(
        "--auth-token",
        nargs="?",
        type=_token,
        const=NEW_TOKEN,
        metavar="TOKEN",
        help="clients must show this token (also: TESSERA_AUTH_TOKEN); without a value, a new one",
    )
    group.add_argument("--default-hashing-function", choices=get_args(HashName), default="sha256")
    group.add_argument("--enable-compress-response-body", action="store_true")
    group.add_argument("--multi-user", action="store_true", help="a user per `comfy-user` header")
    group.add_argument("--front-end-root", type=_existing_folder, metavar="FOLDER")
    group.add_argument("--auto-launch", action="store_true", help="open a browser once the server answers")
    group.add_argument("--disable-auto-launch", action="store_true")
    group.add_argument("--windows-standalone-build", action="store_true", help="implies --auto-launch")


def _folders(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("folders")
    group.add_argument("--base-directory", type=Path, metavar="FOLDER", help="default: the current folder")
    for name in ("output", "input", "temp"):
        group.add_argument(f"--{name}-directory", type=Path, metavar="FOLDER")
    group.add_argument("--user-directory", type=_existing_folder, metavar="FOLDER")
    group.add_argument("--extra-model-paths-config", type=Path, nargs="+", action="append", metavar="YAML")


def _running(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("running prompts")
    group.add_argument(
        "--workers", type=_positive, metavar="N", help="worker processes; default: one per GPU"
    )
    group.add_argument("--threads", type=_positive, metavar="N", help="CPU threads per worker")
    group.add_argument(
        "--worker-memory",
        type=_gigabytes,
        metavar="GB",
        help="most memory of a worker; default: all there is",
    )
    group.add_argument(
        "--watchdog",
        type=_seconds,
        default=600.0,
        metavar="SECONDS",
        help="name an op as hung after so long without progress",
    )
    group.add_argument(
        "--max-queue", type=int, default=10_000, metavar="N", help="unfinished prompts at most; 0: any number"
    )
    group.add_argument(
        "--no-split", action="store_true", help="never let an idle device compute parts of another's steps"
    )
    where = group.add_mutually_exclusive_group()
    where.add_argument("--cpu", action="store_true", help="use no GPU")
    for flag in _VRAM:
        where.add_argument(flag, action="store_true", help=argparse.SUPPRESS)
    precision = group.add_mutually_exclusive_group()
    precision.add_argument("--force-fp32", action="store_true")
    precision.add_argument("--force-fp16", action="store_true")
    group.add_argument("--cuda-device", type=_device_ids, metavar="ID[,ID]", help="use only these GPUs")
    group.add_argument("--preview-method", choices=get_args(PreviewMethod), default="none")
    group.add_argument("--preview-size", type=_positive, default=512, metavar="PIXELS")
    group.add_argument(
        "--disable-metadata", action="store_true", help="no prompt and workflow in saved files"
    )
    group.add_argument("--disable-all-custom-nodes", action="store_true")
    group.add_argument("--whitelist-custom-nodes", nargs="+", default=[], metavar="NAME")
    group.add_argument("--disable-api-nodes", action="store_true", help="always so: there are none")
    group.add_argument("--verbose", nargs="?", const="DEBUG", default="INFO", choices=LEVELS)
    group.add_argument("--log-stdout", action="store_true", help="log to stdout instead of stderr")
    group.add_argument("--dont-print-server", action="store_true", help="no start-up lines")
    group.add_argument("--quick-test-for-ci", action="store_true", help="start, then end with 0")


def _caching(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("results kept for later prompts")
    group.add_argument("--cache-gb", type=float, default=4.0, metavar="GB", help="budget of memory")
    cache = group.add_mutually_exclusive_group()
    cache.add_argument(
        "--cache-classic", action="store_true", help="keep each client's last prompt's results"
    )
    cache.add_argument("--cache-lru", type=_count, default=0, metavar="N", help="keep the last N results")
    cache.add_argument("--cache-none", action="store_true", help="keep no result longer than its prompt")
    cache.add_argument(
        "--cache-ram",
        type=_amount,
        nargs="?",
        const=4.0,
        metavar="GB",
        help="keep results as long as so much memory is left",
    )
    group.add_argument(
        "--cache-disk",
        type=_gigabytes,
        default=0,
        metavar="GB",
        help="costly results that memory has no room for go to the temp folder",
    )


def _ignored(parser: argparse.ArgumentParser) -> None:
    for flags in _IGNORED_GROUPS:
        group = parser.add_mutually_exclusive_group()
        for flag in flags:
            group.add_argument(flag, action="store_true", help=argparse.SUPPRESS)
    for flag in _IGNORED_SWITCHES:
        parser.add_argument(flag, action="store_true", help=argparse.SUPPRESS)
    for flag, metavar in _IGNORED_VALUES.items():
        count = "?" if flag == "--directml" else None
        parser.add_argument(
            flag, nargs=count, const=-1 if count else None, metavar=metavar, help=argparse.SUPPRESS
        )
    parser.add_argument("--fast", nargs="*", choices=_FAST, help=argparse.SUPPRESS)


def without_effect(flags: argparse.Namespace) -> list[str]:
    """The flags that were given and change nothing."""
    names = [flag for group in _IGNORED_GROUPS for flag in group]
    names += [
        *_IGNORED_SWITCHES,
        *_IGNORED_VALUES,
        *_VRAM,
        "--fast",
    ]
    values = vars(flags)
    return [name for name in names if values[name[2:].replace("-", "_")] not in (None, False)]


def settings_from(flags: argparse.Namespace, argv: Sequence[str] = ()) -> Settings:
    """Raises: ValueError where flags contradict each other."""
    if (flags.tls_keyfile is None) != (flags.tls_certfile is None):
        raise ValueError("--tls-keyfile and --tls-certfile must be given together.")
    base = _absolute(flags.base_directory) or Path.cwd()
    configs = [path for paths in flags.extra_model_paths_config or () for path in paths]
    beside = base / "extra_model_paths.yaml"
    return Settings(
        base_directory=base,
        output_directory=_absolute(flags.output_directory),
        input_directory=_absolute(flags.input_directory),
        temp_directory=_absolute(flags.temp_directory),
        user_directory=_absolute(flags.user_directory),
        extra_model_paths=(*([beside] if beside.is_file() else []), *(p.absolute() for p in configs)),
        listen=tuple(a.strip() for a in flags.listen.split(",") if a.strip()) or ("127.0.0.1",),
        port=flags.port,
        tls_keyfile=_absolute(flags.tls_keyfile),
        tls_certfile=_absolute(flags.tls_certfile),
        front_end_root=_absolute(flags.front_end_root),
        enable_cors_header=flags.enable_cors_header,
        max_upload_size=flags.max_upload_size,
        upload_hash=flags.default_hashing_function,
        auth_token=secrets.token_urlsafe(24) if flags.auth_token is NEW_TOKEN else flags.auth_token,
        multi_user=flags.multi_user,
        compress_responses=flags.enable_compress_response_body,
        preview_method=flags.preview_method,
        preview_size=flags.preview_size,
        disable_metadata=flags.disable_metadata,
        cpu=flags.cpu,
        precision=_precision(flags),
        cuda_devices=flags.cuda_device,
        workers=flags.workers,
        threads=flags.threads,
        worker_memory=flags.worker_memory,
        watchdog=flags.watchdog,
        max_queue=flags.max_queue,
        split=not flags.no_split,
        cache=_cache(flags),
        cache_bytes=int(flags.cache_gb * (1 << 30)),
        cache_disk=flags.cache_disk,
        disable_all_custom_nodes=flags.disable_all_custom_nodes,
        whitelist_custom_nodes=tuple(flags.whitelist_custom_nodes),
        verbose=flags.verbose,
        log_stdout=flags.log_stdout,
        argv=_without_token(argv, flags.auth_token),
    )


def _without_token(argv: Sequence[str], token: str | bool | None) -> tuple[str, ...]:
    """The command line, which clients may read, without its secret."""
    return tuple(part.replace(token, "***") if isinstance(token, str) else part for part in argv)


def _cache(flags: argparse.Namespace) -> Cache:
    if flags.cache_none:
        return Cache("none")
    if flags.cache_lru:  # 0 is ComfyUI's default
        return Cache("lru", entries=flags.cache_lru)
    if flags.cache_ram is not None:
        return Cache("ram", headroom=int(flags.cache_ram * (1 << 30)))
    return Cache("classic") if flags.cache_classic else Cache()


def _precision(flags: argparse.Namespace) -> Precision:
    return "fp32" if flags.force_fp32 else "fp16" if flags.force_fp16 else "auto"


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.expanduser().absolute()


def _existing_folder(text: str) -> Path:
    path = Path(text).expanduser()
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is no folder")
    return path


def _token(text: str) -> str:
    if not text.isascii() or not text.isprintable() or " " in text or len(text) < SHORTEST_TOKEN:
        raise argparse.ArgumentTypeError(
            f"it must have at least {SHORTEST_TOKEN} characters, all ASCII without spaces"
        )
    return text


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number from 1")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number from 0")
    return int(text)


def _amount(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number from 0")
    return value


def _gigabytes(text: str) -> int:
    """GB -> bytes."""
    return int(_seconds(text) * (1 << 30))


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number above 0")
    return value


def _device_ids(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} must be device numbers like 0 or 0,1")
    return tuple(int(part) for part in parts)
