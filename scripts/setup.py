"""Make the environment of `make setup`: a virtual environment, torch for this machine, everything else.

    python scripts/setup.py [FOLDER]

Uses the standard library only, because it runs before anything is installed.
"""

import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

TORCH = "2.13.0"  # the version that the recorded results were made with
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PATIENCE = 5.0  # seconds that the CPU index may take to answer


def main() -> int:
    venv = Path(sys.argv[1] if len(sys.argv) > 1 else ".venv")
    if sys.version_info < (3, 11):  # noqa: UP036  # this file alone is run by whatever Python there is
        sys.exit(f"Tessera needs Python 3.11 or newer; this is {sys.version.split()[0]}. "
                 "Call `make setup PYTHON=python3.12` with one that you have.")  # fmt: skip
    begun = time.monotonic()
    make_venv(venv)
    python = venv / "bin" / "python"
    install_torch(python)
    say("installing Tessera and its dependencies")
    pip(python, "install", "--editable", ".[dev]")
    say(f"ready in {time.monotonic() - begun:.0f} s")
    return 0


def make_venv(venv: Path) -> None:
    """An environment with pip in `venv`; one that is there stays."""
    if (venv / "bin" / "python").exists():
        return
    say(f"making the environment {venv}")
    made = subprocess.run([sys.executable, "-m", "venv", str(venv)])
    if made.returncode:
        shutil.rmtree(venv, ignore_errors=True)  # a half-made one would be taken for whole next time
        sys.exit(
            "Python could not make a virtual environment. On Debian and Ubuntu: apt-get install python3-venv"
        )


def install_torch(python: Path) -> None:
    """torch for this machine: CUDA where there is an NVIDIA GPU, else the CPU build, which is far smaller."""
    if pip(python, "show", "--quiet", "torch", quiet=True) == 0:
        return
    if has_nvidia_gpu() or sys.platform != "linux":
        say(f"installing torch {TORCH}")
        pip(python, "install", f"torch=={TORCH}")
        return
    cpu_build = f"torch=={TORCH}+cpu"
    say(f"installing torch {TORCH}, CPU build: no NVIDIA GPU here")
    # First from where pip is told to look: a machine may hold the build itself. PyPI has none.
    if pip(python, "install", cpu_build, quiet=True) == 0:
        return
    if answers(f"{CPU_INDEX}/torch/"):
        pip(python, "install", cpu_build, "--extra-index-url", CPU_INDEX)
        return
    say(f"{CPU_INDEX} does not answer: taking PyPI's build, which runs on a CPU too but is some GB larger")
    pip(python, "install", f"torch=={TORCH}")


def has_nvidia_gpu() -> bool:
    tool = shutil.which("nvidia-smi")
    return tool is not None and subprocess.run([tool, "-L"], capture_output=True).returncode == 0


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=PATIENCE):
            return True
    except (urllib.error.URLError, OSError):
        return False


def pip(python: Path, *arguments: str, quiet: bool = False) -> int:
    """Run pip; unless `quiet`, show what it does and end here when it fails."""
    command = [str(python), "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=quiet)
    if done.returncode and not quiet:
        sys.exit(
            f"This failed with status {done.returncode}: {' '.join(command)}\n"
            "Mend its cause and run `make setup` again."
        )
    return done.returncode


def say(text: str) -> None:
    print(f"setup: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
