"""The queue's lanes, whatever happens to their users."""

from hypothesis import given
from hypothesis import strategies as st

from backend.schedule.fairness import Shares
from backend.schedule.pool import ReadyOp
from backend.schedule.queue import Queue
from backend.types import ComponentId, OpKey

USERS = ("ann", "bob", "cat")
Ops = st.tuples(
    st.sampled_from(USERS),
    st.sampled_from(("sdxl", "flux")),
    st.booleans(),  # put ahead by hand
    st.none() | st.integers(1, 50),  # the deadline
)
Steps = st.one_of(
    st.tuples(st.just("add"), Ops),
    st.tuples(st.just("remove"), st.integers(0, 99)),
    st.tuples(st.just("charge"), st.sampled_from(USERS), st.integers(-5, 20)),
    st.tuples(st.just("age"), st.integers(0, 300)),
)


def an_op(number: int, user: str, model: str, ahead: bool, deadline: int | None) -> ReadyOp:
    order = (-1.0 if ahead else float(number), number)
    return ReadyOp(
        OpKey(f"op{number}"),
        "step",
        order,
        components=(ComponentId(model),),
        batch=model,
        user=user,
        ahead=ahead,
        cost=1.0,
        path=1.0,
        deadline=deadline,
    )


@given(st.lists(Steps, max_size=40))
def test_the_best_of_a_lane_is_the_least_of_its_users_first_ops(steps):
    shares = Shares()
    queue = Queue(shares)
    for number, step in enumerate(steps):
        match step:
            case ("add", op):
                queue.add(an_op(number, *op), float(number))
            case ("remove", index) if queue.ops:
                queue.remove(list(queue.ops)[index % len(queue.ops)])
            case ("charge", user, seconds):
                shares.settle(user, 0.0, float(seconds))
                queue.rank(user, float(number))
            case ("age", now):
                queue.age(float(now))
        for lane in queue.lanes.values():
            users = queue._users
            first = min(queue._head(name, users[name], line[0]) for name, line in lane.lines.items())
            assert queue.best(lane) == first
            assert queue.best(lane) is queue.best(lane)
