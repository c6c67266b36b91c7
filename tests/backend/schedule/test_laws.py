"""Laws of plan() under any history: a state machine over the pool, with a device model beside it."""

import copy

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from backend.schedule.policy import MOST, plan
from backend.schedule.pool import Evict, Load, Preempt, ReadyOp, Reject, Resume, Run, Split, Unsplit
from backend.schedule.rules import Rules
from backend.types import DeviceId, OpKey
from tests.backend.schedule.build import GIB, a_call, a_pool, a_profile, a_step, a_whole

MODELS = ("sd15", "sdxl", "flux", "vae", "clip", "huge")
SIZES = {"sdxl": 3.0, "flux": 5.0, "vae": 0.5, "clip": 0.5, "huge": 20.0}
GIBS = 8


OPS = st.tuples(
    st.sampled_from(["step", "step", "step", "whole", "whole", "call"]),
    st.sampled_from(MODELS),
    st.sampled_from("abc"),
    st.sampled_from([False, False, False, True]),  # ahead
    st.sampled_from([False] * 7 + [True]),  # alone, or serial
    st.sampled_from([1, 2]),  # rows
    st.sampled_from([0.1, 1.0, 30.0]),  # cost
    st.sampled_from([None, None, None, 5.0, 100.0]),  # deadline
)


class PoolMachine(RuleBasedStateMachine):
    """waiting, running, paused: the ops as an outsider sees them, from the decisions alone."""

    @initialize(
        workers=st.integers(1, 3),
        pays=st.booleans(),
        rows=st.sampled_from([2, 8]),
        split=st.booleans(),
        rush=st.booleans(),
    )
    def begin(self, workers, pays, rows, split, rush):
        profile, rules = a_profile(pays=pays, **SIZES), Rules(split=split)
        self.pool = a_pool(workers, threads=2, gib=GIBS, rows=rows, profile=profile, rules=rules)
        for number in range(40 * rush):
            self.pool.overload.defers(number, 20.0, 0.1, 0.0)
        self.helping: dict[DeviceId, tuple[OpKey, DeviceId]] = {}
        self.rows, self.now, self.count = rows, 0.0, 0
        self.ops: dict[OpKey, ReadyOp] = {}
        self.waiting: set[OpKey] = set()
        self.running: dict[OpKey, DeviceId] = {}
        self.paused: dict[OpKey, DeviceId] = {}
        self.over: set[OpKey] = set()

    @rule(drawn=st.lists(OPS, min_size=1, max_size=8))
    def ops_are_ready(self, drawn):
        for kind, model, user, ahead, alone, rows, cost, deadline in drawn:
            self.count += 1
            due = None if deadline is None else self.now + deadline
            more = {"user": user, "ahead": ahead, "cost": cost, "path": cost, "deadline": due}
            key, order = f"op{self.count}", -self.count if ahead else self.count
            if kind == "step":
                op = a_step(key, model, rows, order, alone=alone, parts=rows, **more)
            elif kind == "whole":
                op = a_whole(key, model, order, alone=alone, **more)
            else:
                op = a_call(key, order, serial=alone, **more)
            self.ops[op.key] = op
            self.waiting.add(op.key)
            self.pool.add(op, self.now)
            self.pool.want(op.components, 1)
        self.decide()

    @rule(seconds=st.sampled_from([0.0, 0.5, 40.0]))
    def time_passes(self, seconds):
        self.now += seconds
        self.decide()

    @precondition(lambda self: self.running)
    @rule(data=st.data(), fraction=st.floats(0, 1))
    def an_op_goes_on(self, data, fraction):
        self.pool.progress(data.draw(st.sampled_from(sorted(self.running))), fraction)
        self.decide()

    @precondition(lambda self: self.running)
    @rule(data=st.data(), finished=st.booleans())
    def an_op_ends(self, data, finished):
        self.end(data.draw(st.sampled_from(sorted(self.running))), 1.0 if finished else None)
        self.decide()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def an_op_is_wanted_no_more(self, data):
        key = data.draw(st.sampled_from(sorted(self.waiting)))
        self.pool.remove(key)
        if key in self.paused:
            self.end(key, None)
        else:
            self.forget(key)

    @precondition(lambda self: len(self.pool.devices.workers) > 1)
    @rule(data=st.data())
    def a_device_is_lost(self, data):
        id = data.draw(st.sampled_from(sorted(self.pool.devices.workers)))
        for key in [k for k, where in (*self.running.items(), *self.paused.items()) if where == id]:
            self.end(key, None)
        self.pool.remove_device(id)
        self.helping.pop(id, None)

    @precondition(lambda self: self.pool.devices.workers)
    @rule(data=st.data())
    def a_device_tells_what_it_holds(self, data):
        """All that it should, or less: it may have dropped what nothing uses."""
        id = data.draw(st.sampled_from(sorted(self.pool.devices.workers)))
        held = self.pool.devices[id].held
        kept = {c for c in held if c in self.pool.devices[id].pins or data.draw(st.booleans())}
        self.pool.table(id, {c: self.pool.profile.nbytes(c) for c in kept}, self.now)

    @rule()
    def decide(self):
        profile = self.pool.profile
        twin = copy.deepcopy(self.pool, {id(profile): profile})
        decisions = plan(self.pool, self.now)
        assert plan(twin, self.now) == decisions
        assert len(decisions) < MOST
        for decision in decisions:
            assert decision.reason
            self.obey(decision)

    def obey(self, decision):
        match decision:
            case Run(key, device):
                self.waiting.remove(key)
                assert key not in self.running
                assert key not in self.paused
                assert key not in self.over
                self.running[key] = device
                assert device not in self.helping
            case Resume(key, device):
                self.waiting.remove(key)
                assert self.paused.pop(key) == device
                self.running[key] = device
            case Split(key, device, helper):
                assert self.running[key] == device
                assert helper not in self.helping
                assert helper not in self.running.values()
                assert set(self.ops[key].components) <= set(self.pool.devices[helper].held)
                self.helping[helper] = key, device
            case Unsplit(key, device, helper):
                assert self.helping.pop(helper) == (key, device)
            case Preempt(key, device):
                assert all(helped != key for helped, _ in self.helping.values())
                assert self.running.pop(key) == device
                self.paused[key] = device
                self.waiting.add(key)
            case Reject(key):
                op = self.ops[key]
                late = op.deadline is not None and self.now + self.ops[key].path > op.deadline
                assert late or "huge" in op.components or key in self.paused
                if key in self.paused:
                    self.end(key, None)
                else:
                    self.forget(key)
            case Evict(component, device):
                on = [k for k, where in (*self.running.items(), *self.paused.items()) if where == device]
                assert all(component not in self.ops[key].components for key in on)
            case Load(component):
                assert component in MODELS

    def end(self, key: OpKey, seconds: float | None) -> None:
        self.pool.done(key, seconds)
        self.running.pop(key, None)
        self.helping = {h: (k, d) for h, (k, d) in self.helping.items() if k != key}
        self.paused.pop(key, None)
        self.forget(key)

    def forget(self, key: OpKey) -> None:
        self.waiting.discard(key)
        self.pool.want(self.ops[key].components, -1)
        self.over.add(key)

    @invariant()
    def memory_is_never_exceeded(self):
        for device in self.pool.devices.workers.values() if self.count else ():
            held = sum(h.nbytes for h in device.held.values())
            assert held <= GIBS * GIB
            assert abs(held - device.nbytes) < 1024

    @invariant()
    def helpers_help_and_do_nothing_else(self):
        for device in self.pool.devices if self.count else ():
            helped = device.helps and device.helps.op.key
            assert helped == self.helping.get(device.id, (None, None))[0]
            assert helped is None or not device.running
            assert (device.id in self.pool.devices.unused) == (
                device.kind == "worker" and not helped and not device.running
            )

    @invariant()
    def devices_run_what_they_can(self):
        for device in self.pool.devices if self.count else ():
            mine = [self.ops[key] for key, where in self.running.items() if where == device.id]
            assert set(device.running) == {op.key for op in mine}
            steps = [op for op in mine if op.kind == "step"]
            assert len({op.batch for op in steps}) <= 1
            assert len(mine) - len(steps) <= device.slots
            assert len(mine) == 1 or not any(op.alone for op in mine)
            assert sum(op.serial for op in mine) <= 1
            assert device.kind == "host" or sum(op.rows for op in steps) <= max(self.rows, 2)
            for op in mine:
                assert all(component in device.held for component in op.components)

    @invariant()
    def what_waits_is_in_the_queue(self):
        if self.count:
            assert set(self.pool.queue.ops) == self.waiting

    def teardown(self):
        """Nothing starves: once nothing more comes, all that waits runs or is refused."""
        if not hasattr(self, "pool"):
            return
        for _ in range(10 * self.count + 10):
            self.now += 1.0
            self.decide()
            self.memory_is_never_exceeded()
            self.devices_run_what_they_can()
            if not self.running:
                assert not self.waiting, [self.ops[key] for key in self.waiting]
                break
            self.end(min(self.running), 1.0)
        else:
            raise AssertionError("it does not come to an end")
        assert self.pool.users == 0
        assert not self.pool.demand


PoolMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=30)
TestLaws = PoolMachine.TestCase
