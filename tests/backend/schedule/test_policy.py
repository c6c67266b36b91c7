from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from backend.schedule.policy import plan
from backend.schedule.pool import Device, Pool, ReadyOp, Run
from backend.types import ComponentId, DeviceId, OpKey


def a_step(key: str, model: str = "sd15", rows: int = 2, order: int = 0, **more: object) -> ReadyOp:
    components = (ComponentId(model),)
    op = ReadyOp(OpKey(key), "step", (order, order), components=components, batch=model, rows=rows)
    return replace(op, **more)


def a_whole(key: str, model: str = "vae", order: int = 0) -> ReadyOp:
    return ReadyOp(OpKey(key), "whole", (order, order), components=(ComponentId(model),))


def a_call(key: str, order: int = 0, serial: bool = False) -> ReadyOp:
    return ReadyOp(OpKey(key), "host", (order, order), serial=serial)


def a_device(name: str = "gpu0", resident: str = "", running: tuple[ReadyOp, ...] = ()) -> Device:
    held = frozenset(ComponentId(r) for r in resident.split())
    return Device(DeviceId(name), "worker", slots=1, max_rows=8, running=running, resident=held)


def a_host(threads: int = 2, running: tuple[ReadyOp, ...] = ()) -> Device:
    return Device(DeviceId("host"), "host", slots=threads, running=running)


def starts(*devices: Device, ready: list[ReadyOp] = [], calls: list[ReadyOp] = []) -> dict[str, str]:  # noqa: B006
    decisions = plan(Pool(devices, calls, ready))
    assert all(isinstance(d, Run) and d.reason for d in decisions)
    return {d.key: d.device for d in decisions}


def test_calls_run_on_as_many_threads_as_there_are():
    assert starts(a_host(2), calls=[a_call("a"), a_call("b"), a_call("c")]) == {"a": "host", "b": "host"}


def test_third_party_calls_run_one_at_a_time_beside_our_own():
    calls = [a_call("x", serial=True), a_call("y", serial=True), a_call("ours")]
    assert starts(a_host(4), calls=calls) == {"x": "host", "ours": "host"}


def test_steps_of_one_denoiser_share_a_device_up_to_its_rows():
    ready = [a_step(str(i), order=i) for i in range(6)]
    assert list(starts(a_device(), ready=ready)) == ["0", "1", "2", "3"]


def test_an_op_goes_where_its_weights_are():
    devices = (a_device("gpu0"), a_device("gpu1", resident="sd15"))
    assert starts(*devices, ready=[a_step("a")]) == {"a": "gpu1"}


def test_two_denoisers_spread_over_two_devices():
    ready = [a_step("a", "sd15"), a_step("b", "flux", order=1)]
    assert sorted(starts(a_device("gpu0"), a_device("gpu1"), ready=ready).values()) == ["gpu0", "gpu1"]


def test_a_waiting_denoiser_stops_others_from_joining_before_it():
    device = a_device(resident="sd15", running=(a_step("runs"),))
    ready = [a_step("older", "flux", order=1), a_step("younger", "sd15", order=2)]
    assert starts(device, ready=ready) == {}


def test_a_whole_op_runs_beside_steps():
    device = a_device(running=(a_step("runs"),))
    assert starts(device, ready=[a_whole("decode")]) == {"decode": "gpu0"}


def test_a_suspect_runs_alone():
    suspect = a_step("suspect", alone=True)
    assert starts(a_device(running=(a_step("runs"),)), ready=[suspect]) == {}
    assert starts(a_device(), ready=[suspect, a_step("other", order=1)]) == {"suspect": "gpu0"}


ops = st.builds(
    lambda i, model, kind, alone: (
        a_whole(f"{i}", model, i) if kind else a_step(f"{i}", model, order=i, alone=alone)
    ),
    st.integers(0, 10_000),
    st.sampled_from(["sd15", "flux", "sdxl"]),
    st.booleans(),
    st.booleans(),
)


@given(st.lists(ops, max_size=30, unique_by=lambda op: op.key), st.integers(1, 4))
def test_no_device_is_overfilled_no_op_starts_twice_and_nothing_idles(ready, devices):
    ready = sorted(ready, key=lambda op: op.order)
    pool = Pool(tuple(a_device(f"gpu{i}") for i in range(devices)), [], ready)
    decisions = plan(pool)
    assert decisions == plan(pool)
    assert len({d.key for d in decisions}) == len(decisions)
    by_key = {op.key: op for op in ready}
    for device in pool.devices:
        mine = [by_key[d.key] for d in decisions if d.device == device.id]
        steps = [op for op in mine if op.kind == "step"]
        assert sum(op.rows for op in steps) <= device.max_rows
        assert len({op.batch for op in steps}) <= 1
        assert len(mine) - len(steps) <= device.slots
        assert len(mine) == 1 or not any(op.alone for op in mine)
    assert bool(decisions) == bool(ready)


@given(st.lists(ops, min_size=1, max_size=30, unique_by=lambda op: op.key))
def test_every_op_runs_at_last_when_devices_finish_what_they_have(ready):
    left, device, turns = sorted(ready, key=lambda op: op.order), a_device(), 0
    while left:
        started = {d.key for d in plan(Pool((device,), [], left))}
        left, turns = [op for op in left if op.key not in started], turns + 1
        assert turns <= len(ready)
