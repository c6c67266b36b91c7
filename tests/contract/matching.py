"""Whether a reply is the recorded one: equal but for what differs from run to run."""

import ast
import json
import re
from dataclasses import dataclass, field

ANYTHING = {"<TEXT>", "<TENSOR REPR>", "<TRACEBACK LINES>"}
_NAME = re.compile(r"<(PROMPT_\d+|SID)>")


@dataclass
class Bindings:
    """What placeholders stand for. names: `<PROMPT_3>` -> the id that our server gave."""

    names: dict[str, str] = field(default_factory=dict)

    def difference(self, recorded: object, ours: object, at: str = "") -> str | None:
        """Where the two part, in words; None: nowhere. Binds placeholders that are met first."""
        if isinstance(recorded, dict):
            return self._dicts(recorded, ours, at)
        if isinstance(recorded, list):
            return self._lists(recorded, ours, at)
        if isinstance(recorded, str) and "<" in recorded:
            same = self._placeholder(recorded, ours)
        elif isinstance(recorded, str) and recorded.startswith("{'"):  # a dict as text, in any order
            same = isinstance(ours, str) and ast.literal_eval(recorded) == ast.literal_eval(ours)
        else:
            same = recorded == ours and isinstance(ours, bool) == isinstance(recorded, bool)
        return None if same else f"{at or 'all'}: recorded {short(recorded)}, ours {short(ours)}"

    def _dicts(self, recorded: dict, ours: object, at: str) -> str | None:
        if not isinstance(ours, dict):
            return f"{at}: recorded an object, ours {short(ours)}"
        theirs = {self.names.get(name, name): value for name, value in recorded.items()}
        if unbound := [name for name in theirs if _NAME.fullmatch(name)]:
            self.names[unbound[0]] = next(iter(ours), "")
            return self._dicts(recorded, ours, at)
        if theirs.keys() != ours.keys():
            return f"{at}: recorded the keys {sorted(theirs)}, ours {sorted(ours)}"
        parts = (self.difference(value, ours[name], f"{at}.{name}") for name, value in theirs.items())
        return next(filter(None, parts), None)

    def _lists(self, recorded: list, ours: object, at: str) -> str | None:
        if not isinstance(ours, list):
            return f"{at}: recorded a list, ours {short(ours)}"
        if recorded == ["<TRACEBACK LINES>"]:
            return None if all(isinstance(line, str) for line in ours) else f"{at}: no lines of text"
        if len(recorded) != len(ours):
            return f"{at}: recorded {len(recorded)} items, ours {len(ours)}: {short(ours)}"
        parts = (
            self.difference(a, b, f"{at}[{i}]") for i, (a, b) in enumerate(zip(recorded, ours, strict=True))
        )
        return next(filter(None, parts), None)

    def _placeholder(self, recorded: str, ours: object) -> bool:
        if recorded in ("<TS>", "<MTIME>"):
            return isinstance(ours, int | float) and ours > 1e9
        if not isinstance(ours, str):
            return False
        if recorded in ANYTHING:
            return True
        if _NAME.fullmatch(recorded):
            return self.names.setdefault(recorded, ours) == ours
        pattern = re.escape(self.filled(recorded))
        if (
            "<RAND5>" in recorded
        ):  # the counter is of that random prefix, which each node has of its own there
            pattern = (
                pattern.replace(re.escape("<RAND5>"), "[a-z]{5}")
                .replace("00001", r"\d{5}")
                .replace("00002", r"\d{5}")
            )
        return re.fullmatch(pattern, ours) is not None

    def filled(self, text: str) -> str:
        """The text with what its placeholders stand for."""
        return _NAME.sub(lambda m: self.names.get(m[0], m[0]), text)


def short(value: object) -> str:
    text = json.dumps(value, default=repr)
    return text if len(text) < 300 else text[:300] + " ..."
