"""What reference workflows need and the server does not have yet.

`test_parity.py` holds these lists to the truth: a name that is missing here fails, and so does one that is no
longer needed.
"""

CLASSES: frozenset[str] = frozenset()

MODELS: frozenset[str] = frozenset()

# Cases whose nodes are there and which ask them for something that is refused by name.
CASES: dict[str, str] = {}
