"""Which rules plan() follows: each may be left out, to see in the simulation what it is worth."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rules:
    """split: deal one op's passes to idle devices too. prefetch: load what jobs will want before they do.
    preempt: stop runs at a step for others. batch: let ops join a batch. deadlines: go by them between users.
    admit: refuse the largest jobs with a deadline while more comes than can be done, and make a large one
    late where another must begin now. merge: LoRAs are merged into a run's own copy of the weights where that
    costs less than LoRAs beside them. busy: how much of their time devices compute in.
    """

    split: bool = False
    prefetch: bool = True
    preempt: bool = True
    batch: bool = True
    deadlines: bool = True
    admit: bool = False
    merge: bool = True
    busy: float = 0.85
