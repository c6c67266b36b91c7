"""The recorded facts that lie beside the checkout."""

import json
import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("TESSERA_SHARED", Path(__file__).parents[4] / "shared"))


def shared_file(path: str) -> Path:
    file = SHARED / path
    if not file.exists():
        pytest.skip(f"{file} is missing: set TESSERA_SHARED to the folder that holds {path}")
    return file


def shared_json(path: str):
    return json.loads(shared_file(path).read_text())
