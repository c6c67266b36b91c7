"""Text: joined, cut, searched."""

from typing import Annotated

from backend.node import String, node

CATEGORY = "utils/string"
MODULE = "comfy_extras.nodes_string"
Multiline = Annotated[str, String(multiline=True)]


@node("StringConcatenate", category=CATEGORY, display_name="Concatenate", module=MODULE)
def string_concatenate(
    *, string_a: Multiline, string_b: Multiline, delimiter: Annotated[str, String(multiline=False)] = ""
) -> str:
    """Both texts with the delimiter between."""
    return delimiter.join((string_a, string_b))
