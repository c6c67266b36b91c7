"""One frozen Settings, read once from flags and environment (`web/cli.py` fills it)."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

PreviewMethod = Literal["none", "auto", "latent2rgb", "taesd"]
Precision = Literal["auto", "fp32", "fp16", "bf16"]


@dataclass(frozen=True, slots=True)
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
    preview_method: PreviewMethod = "none"
    preview_size: int = 512  # longest side in pixels
    disable_metadata: bool = False
    cpu: bool = False
    precision: Precision = "auto"
    workers: int | None = None  # None: one per GPU, or one on a CPU
    threads: int | None = None  # torch threads per worker; None: the cores shared out
    cache_bytes: int = 4 << 30  # budget of finished results on the host
    verbose: str = "INFO"
    log_stdout: bool = False
    tls_keyfile: Path | None = None
    tls_certfile: Path | None = None
    multi_user: bool = False  # a user per `comfy-user` header, each with an own folder
    compress_responses: bool = False
    cuda_devices: tuple[int, ...] | None = None  # None: all; otherwise only these are used
    disable_all_custom_nodes: bool = False
    whitelist_custom_nodes: tuple[str, ...] = ()
    argv: tuple[str, ...] = ()
