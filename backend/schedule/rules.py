"""Which rules plan() follows: each may be left out, to see in the simulation what it is worth."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rules:
    """split: deal one op's passes to idle devices too; whoever carries out the decisions must know how. copies:
    fill free memory with copies of what is used often.
    """

    split: bool = False
    copies: bool = False
    admit: bool = True
    speed: float = 1.15
