"""Which rules plan() follows: each may be left out, to see in the simulation what it is worth."""

from backend.values import frozen


@frozen
class Rules:
    """split: deal one op's passes to idle devices too. prefetch: load what jobs will want before they do.
    preempt: stop runs at a step for others. batch: let ops join a batch. deadlines: go by them between users.
    defer: while more comes than can be done, the largest jobs with a deadline go last. merge: LoRAs are
    merged into a run's own copy of the weights where that costs less than LoRAs beside them.
    """

    split: bool = False
    prefetch: bool = True
    preempt: bool = True
    batch: bool = True
    deadlines: bool = True
    defer: bool = True
    merge: bool = True
