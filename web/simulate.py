"""`tessera simulate`: the schedule on a simulated fleet, as a report with charts."""

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import get_args

from tqdm import tqdm

from backend.schedule.simulate import Hardware
from backend.schedule.simulation.faults import Broken, chaos
from backend.schedule.simulation.lineup import POLICIES
from backend.schedule.simulation.report import report
from backend.schedule.simulation.study import Found, Plan, pieces, study, work_of
from backend.schedule.simulation.workload import PRESETS, Preset

FAILED = 1


def add_simulate_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", action="append", choices=get_args(Preset), help="one of them, repeatable")
    parser.add_argument("--policy", action="append", choices=POLICIES, help="one of them, repeatable")
    parser.add_argument(
        "--slo", type=float, default=2.0, help="in time: within so many times the latency alone"
    )
    parser.add_argument(
        "--looser",
        type=float,
        action="append",
        help="a service level at which rates are found too; repeatable",
    )
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--memory", type=float, default=79.2, help="GiB of each device")
    parser.add_argument("--seconds", type=float, default=600.0, help="of traffic in each run")
    parser.add_argument("--seed", type=int, action="append", help="of the traffic (0); repeatable")
    parser.add_argument(
        "--jobs", type=int, default=1, help="processes, of which each takes a preset and seed"
    )
    parser.add_argument("--quick", action="store_true", help="rates and latencies only")
    parser.add_argument("--faults", type=int, metavar="SEEDS", help="run so many seeds of faults instead")
    parser.add_argument("--output", type=Path, default=Path("docs/simulation"), help="folder of the report")


def simulate(flags: argparse.Namespace) -> int:
    """Returns: the exit status."""
    if flags.faults is not None:
        return _faults(flags.seed[0] if flags.seed else 0, flags.faults)
    plan = Plan(
        tuple(flags.preset or PRESETS),
        tuple(flags.policy or POLICIES),
        tuple(flags.seed or (0,)),
        flags.slo,
        tuple(flags.looser or ()),
        flags.seconds,
        hardware=Hardware(devices=flags.devices, memory=flags.memory),
        ablations=not flags.quick,
        searches=not flags.quick,
    )
    files = report(plan, _results(plan, flags.jobs))
    flags.output.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (flags.output / name).write_text(text, encoding="utf-8")
        print(flags.output / name)
    return 0


def _results(plan: Plan, jobs: int) -> dict[Preset, list[Found]]:
    """With a progress bar. jobs: processes, of which each takes a preset and seed."""
    with tqdm(total=work_of(plan), unit="run") as bar:

        def tell(what: str) -> None:
            bar.set_description(what)
            bar.update()

        if jobs < 2:
            return study(plan, tell)
        results: dict[Preset, list[Found]] = {preset: [] for preset in plan.presets}
        alone = pieces(plan)
        with ProcessPoolExecutor(jobs) as pool:
            for part, found in zip(alone, pool.map(quiet, alone), strict=True):
                results[part.presets[0]] += found
                bar.update(work_of(part))
        return results


def quiet(plan: Plan) -> list[Found]:
    """One preset and seed, without a word."""
    return study(plan, lambda _: None)[plan.presets[0]]


def _faults(first: int, seeds: int) -> int:
    """Runs under faults. A failure prints the seed that replays it."""
    failed = 0
    for seed in tqdm(range(first, first + seeds), unit="seed"):
        try:
            chaos(seed)
        except Broken as broken:
            failed += 1
            print(f"tessera: {broken}", file=sys.stderr)
    print(f"{seeds - failed} of {seeds} seeds hold")
    return FAILED if failed else 0
