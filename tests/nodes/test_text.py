import pytest

from tests.nodes.build import run


@pytest.mark.parametrize(
    ("name", "inputs", "result"),
    [
        ("StringConcatenate", {"string_a": "a", "string_b": "b", "delimiter": ", "}, "a, b"),
        ("StringSubstring", {"string": "abcdef", "start": 1, "end": -2}, "bcd"),
        ("StringLength", {"string": "äöü"}, 3),
        ("CaseConverter", {"string": "two words", "mode": "Title Case"}, "Two Words"),
        ("CaseConverter", {"string": "Two", "mode": "UPPERCASE"}, "TWO"),
        ("CaseConverter", {"string": "Two", "mode": "lowercase"}, "two"),
        ("CaseConverter", {"string": "two Words", "mode": "Capitalize"}, "Two words"),
        ("StringTrim", {"string": " a ", "mode": "Left"}, "a "),
        ("StringTrim", {"string": " a ", "mode": "Both"}, "a"),
        ("StringReplace", {"string": "a-a", "find": "a", "replace": "b"}, "b-b"),
        ("StringContains", {"string": "Abc", "substring": "aB", "case_sensitive": False}, True),
        ("StringContains", {"string": "Abc", "substring": "aB"}, False),
        (
            "StringCompare",
            {"string_a": "abc", "string_b": "BC", "mode": "Ends With", "case_sensitive": False},
            True,
        ),
        ("StringCompare", {"string_a": "abc", "string_b": "ab", "mode": "Equal"}, False),
        ("StringCompare", {"string_a": "abc", "string_b": "ab", "mode": "Starts With"}, True),
        ("RegexMatch", {"string": "seed 42", "regex_pattern": r"SEED \d+"}, True),
        ("RegexMatch", {"string": "seed 42", "regex_pattern": r"SEED \d+", "case_insensitive": False}, False),
        ("RegexReplace", {"string": "a1b22", "regex_pattern": r"(\d+)", "replace": r"<\1>"}, "a<1>b<22>"),
        ("RegexReplace", {"string": "a1b22", "regex_pattern": r"\d+", "replace": "", "count": 1}, "ab22"),
    ],
)
def test_texts(name, inputs, result):
    assert run(name, **inputs) == result


@pytest.mark.parametrize(
    ("pattern", "mode", "group", "found"),
    [
        (r"(\w)=(\d)", "First Match", 1, "a=1"),
        (r"(\w)=(\d)", "All Matches", 1, "a\nb"),
        (r"\w=\d", "All Matches", 1, "a=1\nb=2"),
        (r"(\w)=(\d)", "First Group", 2, "1"),
        (r"(\w)=(\d)", "All Groups", 2, "1\n2"),
        (r"(\w)=(\d)", "All Groups", 3, ""),
        (r"\w=\d", "All Groups", 0, ""),
        (r"x=\d", "First Match", 1, ""),
    ],
)
def test_extracting(pattern, mode, group, found):
    assert run("RegexExtract", string="a=1 b=2", regex_pattern=pattern, mode=mode, group_index=group) == found


def test_a_broken_pattern_is_shown_with_its_mistake():
    with pytest.raises(ValueError, match=r"is no regular expression: .*unterminated"):
        run("RegexReplace", string="a", regex_pattern="(a", replace="b")


def test_what_is_no_regular_expression_finds_nothing():
    assert run("RegexMatch", string="a[", regex_pattern="[") is False
    assert run("RegexExtract", string="a[", regex_pattern="[", mode="First Match") == ""
