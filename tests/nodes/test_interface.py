"""Every class of ours has ComfyUI's interface: contract/nodes.json, field by field."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from backend.node import InputSpec, NodeSpec
from nodes.catalogue import builtin_nodes, builtin_registry
from tests.nodes.absent import NOT_YET, OUT_OF_SCOPE, YOUNGER, reasons

SHARED = Path(os.environ.get("TESSERA_SHARED", Path(__file__).parents[3] / "shared"))
CONTRACT = SHARED / "contract" / "nodes.json"


def contract() -> dict:
    if not CONTRACT.exists():
        pytest.skip(f"{CONTRACT} is missing: set TESSERA_SHARED to the folder that holds contract/")
    return json.loads(CONTRACT.read_text())["nodes"]


def described(spec: NodeSpec) -> dict:
    """A NodeSpec in the form of nodes.json."""
    inputs: dict[str, object] = {}
    for section, optional in (("required", False), ("optional", True)):
        if chosen := [described_input(i) for i in spec.inputs if i.optional == optional]:
            inputs[section] = chosen
    if spec.hidden:
        inputs["hidden"] = dict(spec.hidden)
    outputs = []
    for out in spec.outputs:
        entry: dict[str, object] = {"type": list(out.type) if isinstance(out.type, tuple) else out.type}
        outputs.append({**entry, "name": out.name, **({"is_list": True} if out.is_list else {})})
    flags = {"output_node": True} if spec.output_node else {}
    flags |= {name: True for name in ("experimental", "deprecated") if spec.extra.get(name)}
    head = {"category": spec.category, "display_name": spec.display_name, "module": spec.module}
    return {**head, **flags, "inputs": inputs, "outputs": outputs}


def described_input(given: InputSpec) -> dict:
    entry: dict[str, object] = {"name": given.name, "type": given.type}
    if given.choice is not None and given.choice.style == "list":
        entry["combo_wire"] = "list"
    elif given.choice is not None:
        entry["combo_wire"] = "COMBO"
    elif given.type == "COMBO":  # its options are fetched by the front end
        entry |= {"combo_wire": "COMBO", "options_from": "files"}
    if given.choice is not None and callable(given.choice.among):
        entry["options_from"] = "files"
    elif given.choice is not None and given.choice.among:
        entry["options"] = list(given.choice.among)
    options = {name: value for name, value in given.options.items() if name not in ("tooltip", "placeholder")}
    return {**entry, **({"opts": options} if options else {})}


def test_every_class_of_ours_equals_the_contract():
    wanted = contract()
    differences = []
    for spec in builtin_registry():
        want = wanted.get(spec.name)
        if want is None:
            if spec.name not in YOUNGER:
                differences.append(f"{spec.name}: not a class of the contract")
            continue
        want.pop("not_served_here", None)
        want["display_name"] = want["display_name"] or spec.name  # null: the class has no other name
        for entry in [i for section in ("required", "optional") for i in want["inputs"].get(section, [])]:
            if "options_from" in entry:
                entry["options_from"] = "files"
        have = described(spec)
        differences += [
            f"{spec.name}.{field}:\n    have {have.get(field)}\n    want {want.get(field)}"
            for field in sorted(have.keys() | want.keys())
            if have.get(field) != want.get(field)
        ]
    assert not differences, "\n".join(differences)


def test_what_is_missing_is_known_and_has_a_reason():
    here, wanted = {spec.name for spec in builtin_nodes()}, set(contract())
    absent, why = wanted - here, reasons()
    unexplained = absent - why.keys() - NOT_YET
    assert not unexplained, f"in the contract and not here, for no reason given: {sorted(unexplained)}"
    mistaken = why.keys() - wanted
    assert not mistaken, f"no classes of the contract: {sorted(mistaken)}"
    here_all_the_same = here & why.keys()
    assert not here_all_the_same, f"said to be missing, and here: {sorted(here_all_the_same)}"
    scope = len(wanted) - len(why)
    print(f"{len(here & wanted)} of {scope} classes in scope; {len(why)} are out of scope:")
    for reason in OUT_OF_SCOPE:
        print(f"  {reason}: {', '.join(sorted(name for name in why if why[name] == reason))}")
    print(f"  not yet: {', '.join(sorted(absent & NOT_YET)) or 'none'}")


def test_every_module_of_the_list_defines_nodes_and_no_name_stands_twice():
    names = [spec.name for spec in builtin_nodes()]
    assert len(names) == len(set(names))
    assert {"KSampler", "LoadImage", "PreviewAny"} <= set(names)


def test_listing_the_nodes_loads_no_torch():
    code = "import sys, nodes.catalogue as c; c.builtin_registry(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
