"""How long plan() takes, in milliseconds of CPU time: `python -m scripts.bench_plan`.

cold: nothing runs yet and everything waits; each call fills devices until it has made its most decisions.
steady: all devices are full; one op ends and one arrives, again and again, as in a server under load.
"""

import argparse
import gc
import random
import statistics
from collections.abc import Iterator
from time import thread_time

from backend.schedule.policy import MOST, plan
from backend.schedule.pool import Decision, ReadyOp, Run
from backend.schedule.profile import Profile
from backend.schedule.state import Pool
from backend.types import ComponentId, DeviceId, OpKey

GIB = 1 << 30
MODELS, USERS = 87, 4247  # bases and users of the published trace in shared/profiles/workload.json
SIZES = ((64, 1_000), (1_000, 100_000))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=500, help="steady turns")
    turns: int = parser.parse_args().turns
    print(
        f"{'devices':>8} {'ready':>8} {'case':>7} {'calls':>6} {'p50 ms':>8} {'p99 ms':>8} {'max ms':>8} made"
    )
    for devices, ready in SIZES:
        bench(devices, ready, turns)


def bench(devices: int, ready: int, turns: int) -> None:
    random.seed(0)
    pool = a_pool(devices)
    ops = some_ops()
    for _ in range(ready):
        pool.add(next(ops), 0.0)
    gc.collect()
    gc.freeze()
    running: list[OpKey] = []
    times, made = list[float](), 0
    while True:
        decisions = timed(pool, 0.0, times, running)
        made += len(decisions)
        if len(decisions) < MOST:
            break
    show(devices, ready, "cold", times, made)
    times, made = [], 0
    for turn in range(turns):
        index = random.randrange(len(running))
        running[index], running[-1] = running[-1], running[index]
        pool.done(running.pop(), 1.0)
        pool.add(next(ops), float(turn))
        made += len(timed(pool, float(turn), times, running))
    show(devices, len(pool.queue), "steady", times, made)


def timed(pool: Pool, now: float, times: list[float], running: list[OpKey]) -> list[Decision]:
    begun = thread_time()
    decisions = plan(pool, now)
    times.append(1e3 * (thread_time() - begun))
    running.extend(d.key for d in decisions if isinstance(d, Run))
    return decisions


def show(devices: int, ready: int, case: str, times: list[float], made: int) -> None:
    times.sort()
    p99 = times[min(len(times) - 1, int(0.99 * len(times)))]
    shown = f"{statistics.median(times):8.3f} {p99:8.3f} {times[-1]:8.3f}"
    print(f"{devices:8} {ready:8} {case:>7} {len(times):6} {shown} {made}")


def a_pool(devices: int) -> Pool:
    profile = Profile()
    for model in range(MODELS):
        profile.observe_size(ComponentId(f"m{model}"), random.choice([2, 5, 12]) * GIB)
        profile.observe_size(ComponentId(f"v{model}"), 0.2 * GIB)
    pool = Pool(profile)
    for index in range(devices):
        pool.add_device(DeviceId(f"gpu{index}"), "worker", 1, 8, 80.0 * GIB)
    return pool


def some_ops() -> Iterator[ReadyOp]:
    """Seven in ten are denoising; models are as unevenly popular as in the trace (Zipf, 1.7)."""
    weights = [1 / (rank + 1) ** 1.7 for rank in range(MODELS)]
    number = 0
    while True:
        for model in random.choices(range(MODELS), weights, k=1000):
            number += 1
            user, order = f"user{random.randrange(USERS)}", (float(number), number)
            if random.random() < 0.7:
                name = ComponentId(f"m{model}")
                yield ReadyOp(
                    OpKey(f"op{number}"), "step", order, 0.0, (name,), name, 2, user=user, cost=2.0, path=3.0
                )
            else:
                name = ComponentId(f"v{model}")
                yield ReadyOp(
                    OpKey(f"op{number}"), "whole", order, 0.0, (name,), user=user, cost=0.2, path=0.2
                )


if __name__ == "__main__":
    main()
