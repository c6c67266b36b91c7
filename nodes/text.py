"""Text: joined, cut, compared, searched."""

import logging
import re
from typing import Annotated

from backend.node import Boolean, Choice, Combo, Int, String, node

CATEGORY = "utils/string"
MODULE = "comfy_extras.nodes_string"
LINE_BREAK = "\n"
_log = logging.getLogger(__name__)
Multiline = Annotated[str, String(multiline=True)]
Switch = Annotated[bool, Boolean()]


def one_of(*names: str) -> Combo:
    """A choice as the newer node classes serve it."""
    return Choice(names, style="COMBO", multiselect=False)


@node("StringConcatenate", category=CATEGORY, display_name="Concatenate", module=MODULE)
def string_concatenate(
    *, string_a: Multiline, string_b: Multiline, delimiter: Annotated[str, String(multiline=False)] = ""
) -> str:
    """Both texts with the delimiter between."""
    return delimiter.join((string_a, string_b))


@node("StringSubstring", category=CATEGORY, display_name="Substring", module=MODULE)
def string_substring(*, string: Multiline, start: int, end: int) -> str:
    """From one position to before another; negative ones count from the end."""
    return string[start:end]


@node("StringLength", category=CATEGORY, display_name="Length", module=MODULE, outputs=("length",))
def string_length(*, string: Multiline) -> int:
    """The number of characters."""
    return len(string)


@node("CaseConverter", category=CATEGORY, display_name="Case Converter", module=MODULE)
def case_converter(
    *, string: Multiline, mode: Annotated[str, one_of("UPPERCASE", "lowercase", "Capitalize", "Title Case")]
) -> str:
    """The text in another case."""
    change = {"UPPERCASE": str.upper, "lowercase": str.lower, "Capitalize": str.capitalize}
    return change.get(mode, str.title)(string)


@node("StringTrim", category=CATEGORY, display_name="Trim", module=MODULE)
def string_trim(*, string: Multiline, mode: Annotated[str, one_of("Both", "Left", "Right")]) -> str:
    """Without white space at its ends."""
    return {"Both": str.strip, "Left": str.lstrip, "Right": str.rstrip}[mode](string)


@node("StringReplace", category=CATEGORY, display_name="Replace", module=MODULE)
def string_replace(*, string: Multiline, find: Multiline, replace: Multiline) -> str:
    """Every occurrence replaced."""
    return string.replace(find, replace)


@node("StringContains", category=CATEGORY, display_name="Contains", module=MODULE, outputs=("contains",))
def string_contains(*, string: Multiline, substring: Multiline, case_sensitive: Switch = True) -> bool:
    """Whether one text is in the other."""
    return substring in string if case_sensitive else substring.lower() in string.lower()


@node("StringCompare", category=CATEGORY, display_name="Compare", module=MODULE)
def string_compare(
    *,
    string_a: Multiline,
    string_b: Multiline,
    mode: Annotated[str, one_of("Starts With", "Ends With", "Equal")],
    case_sensitive: Switch = True,
) -> bool:
    """Whether the first text is, begins or ends with the second."""
    a, b = (string_a, string_b) if case_sensitive else (string_a.lower(), string_b.lower())
    if mode == "Equal":
        return a == b
    return a.startswith(b) if mode == "Starts With" else a.endswith(b)


def _pattern_or_none(
    text: str, case_insensitive: bool, multiline: bool, dotall: bool
) -> re.Pattern[str] | None:
    """None for what is no regular expression: ComfyUI's nodes that search find nothing then."""
    try:
        return _pattern(text, case_insensitive, multiline, dotall)
    except ValueError as error:
        _log.warning("%s", error)
        return None


def _pattern(text: str, case_insensitive: bool, multiline: bool, dotall: bool) -> re.Pattern[str]:
    """Raises: ValueError with the place of the mistake."""
    flags = [(case_insensitive, re.IGNORECASE), (multiline, re.MULTILINE), (dotall, re.DOTALL)]
    try:
        return re.compile(text, sum(flag for chosen, flag in flags if chosen))
    except re.error as error:
        raise ValueError(f"regex_pattern {text!r} is no regular expression: {error}. Correct it.") from error


@node("RegexMatch", category=CATEGORY, display_name="Regex Match", module=MODULE, outputs=("matches",))
def regex_match(
    *,
    string: Multiline,
    regex_pattern: Multiline,
    case_insensitive: Switch = True,
    multiline: Switch = False,
    dotall: Switch = False,
) -> bool:
    """Whether the pattern occurs."""
    pattern = _pattern_or_none(regex_pattern, case_insensitive, multiline, dotall)
    return pattern is not None and pattern.search(string) is not None


@node("RegexExtract", category=CATEGORY, display_name="Regex Extract", module=MODULE)
def regex_extract(
    *,
    string: Multiline,
    regex_pattern: Multiline,
    mode: Annotated[str, one_of("First Match", "All Matches", "First Group", "All Groups")],
    case_insensitive: Switch = True,
    multiline: Switch = False,
    dotall: Switch = False,
    group_index: Annotated[int, Int(0, 100)] = 1,
) -> str:
    """What the pattern finds, or a group of it; several finds stand on lines of their own."""
    pattern = _pattern_or_none(regex_pattern, case_insensitive, multiline, dotall)
    if pattern is None:
        return ""
    found = list(pattern.finditer(string))
    if mode == "All Matches":
        # A pattern with groups yields its first group, as ComfyUI has it.
        return LINE_BREAK.join(match[min(1, pattern.groups)] or "" for match in found)
    group = 0 if mode == "First Match" else group_index
    if mode.startswith("First"):
        found = found[:1]
    if group > pattern.groups or (mode == "All Groups" and not pattern.groups):
        return ""
    return LINE_BREAK.join(match[group] or "" for match in found)


@node("RegexReplace", category=CATEGORY, display_name="Regex Replace", module=MODULE)
def regex_replace(
    *,
    string: Multiline,
    regex_pattern: Multiline,
    replace: Multiline,
    case_insensitive: Switch | None = True,
    multiline: Switch | None = False,
    dotall: Switch | None = False,
    count: Annotated[int, Int(0, 100)] | None = 0,
) -> str:
    """What the pattern finds replaced; a count of 0 replaces all."""
    pattern = _pattern(regex_pattern, bool(case_insensitive), bool(multiline), bool(dotall))
    return pattern.sub(replace, string, count=count or 0)
