"""The command line: `tessera serve`, `tessera run` and `tessera models`."""

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from backend.errors import TesseraError
from backend.settings import token_from_environment
from web.assembly import early_nursery
from web.flags import add_flags, settings_from, without_effect
from web.inventory import models
from web.logs import LogBuffer
from web.run import run
from web.serve import serve
from web.simulate import add_simulate_flags, simulate

FAILED = 1
MISUSED = 2
VERBS = ("serve", "run", "models", "simulate")
log = logging.getLogger("tessera")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb. Returns: the exit status, 0 where all went well."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    # ComfyUI's launch scripts name no verb, only flags.
    flags = parser.parse_args(["serve", *arguments] if _flags_only(arguments) else arguments)
    if flags.verb == "simulate":
        return simulate(flags)
    try:
        settings = settings_from(flags, [sys.argv[0], *arguments])
    except ValueError as error:
        parser.error(str(error))
    if settings.auth_token is None and flags.verb == "serve":
        settings = replace(settings, auth_token=token_from_environment())
    logs = _log(settings.verbose, to_stdout=settings.log_stdout)
    for flag in without_effect(flags):
        log.warning("%s has no effect: Tessera decides this itself, or has no such thing.", flag)
    try:
        if flags.verb == "run":
            return asyncio.run(run(settings, flags.workflow))
        if flags.verb == "models":
            return models(settings, as_json=flags.json)
        quiet, once = flags.dont_print_server, flags.quick_test_for_ci
        nursery = early_nursery(settings)
        status = asyncio.run(serve(settings, logs, nursery, quiet=quiet, launch=_launches(flags), once=once))
    except TesseraError as error:
        print(f"tessera: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:  # before the server hears signals itself
        return 130
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # a third-party thread that hangs must not keep the process


def _flags_only(arguments: Sequence[str]) -> bool:
    first = arguments[0] if arguments else ""
    return first.startswith("-") and first not in ("-h", "--help", "--version")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("tessera", description="A ComfyUI server with a micro-serving engine.")
    parser.add_argument("--version", action="version", version=f"tessera {version('tessera-serve')}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="{serve,run,models,simulate}")
    serving = verbs.add_parser("serve", help="start the server")
    running = verbs.add_parser("run", help="run one prompt without a server")
    running.add_argument("workflow", type=Path, metavar="WORKFLOW.json", help="a prompt in API format")
    listing = verbs.add_parser("models", help="list model files, their components, and who shares what")
    listing.add_argument("--json", action="store_true", help="for programs: sizes in bytes, whole identities")
    simulating = verbs.add_parser("simulate", help="the schedule on a simulated fleet, as a report")
    add_simulate_flags(simulating)
    for verb in (serving, running, listing):
        add_flags(verb)
    return parser


def _launches(flags: argparse.Namespace) -> bool:
    return (flags.auto_launch or flags.windows_standalone_build) and not flags.disable_auto_launch


def _log(level: str, *, to_stdout: bool) -> LogBuffer:
    """Log to the console, and keep the last lines for the front end."""
    buffer = LogBuffer()
    console = logging.StreamHandler(sys.stdout if to_stdout else sys.stderr)
    console.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[console, buffer], force=True)
    return buffer


if __name__ == "__main__":
    sys.exit(main())
