"""One frozen Settings, read once from flags and environment (`web/cli.py` fills it)."""

import os
import shutil
import subprocess
from dataclasses import field
from pathlib import Path
from typing import Literal

from backend.values import frozen

PreviewMethod = Literal["none", "auto", "latent2rgb", "taesd"]
HashName = Literal["md5", "sha1", "sha256", "sha512"]
Precision = Literal["auto", "fp32", "fp16", "bf16"]


@frozen
class Cache:
    """How long results are kept. bytes: under a budget, whoever made them; classic: those of each client's
    last prompt; lru: the last `entries`; none: no longer than their prompt; ram: as long as the machine has
    `headroom` bytes of memory left.
    """

    kind: Literal["bytes", "classic", "lru", "none", "ram"] = "bytes"
    entries: int = 0
    headroom: int = 0


@frozen
class Settings:
    """What the server was told at start. Paths are absolute; None means: below `base_directory`."""

    base_directory: Path = field(default_factory=Path.cwd)
    output_directory: Path | None = None
    input_directory: Path | None = None
    temp_directory: Path | None = None  # parent of the `temp` folder
    user_directory: Path | None = None
    extra_model_paths: tuple[Path, ...] = ()  # YAML files
    listen: tuple[str, ...] = ("127.0.0.1",)
    port: int = 8188
    front_end_root: Path | None = None
    enable_cors_header: str | None = None
    max_upload_size: float = 100.0  # MB
    upload_hash: HashName = "sha256"  # tells whether an upload is there already
    preview_method: PreviewMethod = "none"
    preview_size: int = 512  # longest side in pixels
    disable_metadata: bool = False
    cpu: bool = False
    precision: Precision = "auto"
    workers: int | None = None  # None: one per GPU, or one on a CPU
    threads: int | None = None  # torch threads per worker; None: the cores shared out
    worker_memory: int | None = None  # bytes that a worker may use; None: what its device has
    watchdog: float = 600.0  # seconds without progress after which an op counts as hung
    split: bool = True  # idle devices compute parts of the steps of others
    max_queue: int = 10_000  # unfinished jobs; 0: any number
    cache: Cache = field(default_factory=Cache)
    cache_bytes: int = 4 << 30  # budget of finished results on the host
    cache_disk: int = 0  # bytes of results on disk, beyond those in memory
    verbose: str = "INFO"
    log_stdout: bool = False
    tls_keyfile: Path | None = None
    tls_certfile: Path | None = None
    auth_token: str | None = field(default=None, repr=False)  # what clients must show; None: nothing
    multi_user: bool = False  # a user per `comfy-user` header, each with an own folder
    compress_responses: bool = False
    cuda_devices: tuple[int, ...] | None = None  # None: all; otherwise only these are used
    disable_all_custom_nodes: bool = False
    whitelist_custom_nodes: tuple[str, ...] = ()
    argv: tuple[str, ...] = ()


def token_from_environment() -> str | None:
    """TESSERA_AUTH_TOKEN: unlike a flag, other users of the machine can't see it."""
    return os.environ.get("TESSERA_AUTH_TOKEN") or None


def yield_idle_cores() -> None:
    """From now on OpenMP threads of this process and its children sleep while they wait, instead of spinning.

    Spinning gains nothing measurable on idle cores. On busy ones it costs what others need: a sampling run
    that took 1.7 s took 14 to 68 s beside other work on two cores. What the user's environment says stands.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def visible_gpus(settings: Settings) -> int:
    """How many NVIDIA GPUs the workers will see, without loading torch; 0 with `cpu`.

    From now on child processes see only `settings.cuda_devices`, where that is set.
    """
    if settings.cuda_devices is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, settings.cuda_devices))
    if settings.cpu:
        return 0
    present = len(list(Path("/proc/driver/nvidia/gpus").glob("*"))) or _listed_gpus()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return present
    return min(present, len([device for device in visible.split(",") if device.strip() not in ("", "-1")]))


def _listed_gpus() -> int:
    """What the driver's tool lists, on systems without /proc."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return 0
    try:
        listing = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in listing.stdout.splitlines())
