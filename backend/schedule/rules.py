"""Which rules plan() follows: each may be left out, to see in the simulation what it is worth."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rules:
    """split: deal one op's passes to idle devices too; whoever carries out the decisions must know how.
    copies: fill free memory with copies of what is used often. prefetch: load what jobs will want before
    they do. preempt: stop runs at a step for others. batch: let ops join a batch. deadlines: go by them
    between users. slices: calls of a pass are kept short, by whoever runs it. apart: runs with long calls
    leave a quarter of the devices to others. admit: refuse the largest jobs with a deadline while more
    comes than can be done; speed: how much of their time devices do work in.
    """

    split: bool = False
    copies: bool = False
    prefetch: bool = True
    preempt: bool = True
    batch: bool = True
    deadlines: bool = True
    slices: bool = True
    apart: bool = True
    admit: bool = False
    speed: float = 0.85
