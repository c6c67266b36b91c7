"""ComfyUI's V3 schema: wire types with their inputs and outputs, `Schema`, and the base class of nodes.

What later versions of ComfyUI accept beside (`advanced`, `search_aliases` ...) is taken and passed on.
"""

from comfy_api.latest._io.dynamic import *
from comfy_api.latest._io.node import *
from comfy_api.latest._io.node import _ComfyNodeBaseInternal, _UIOutput  # noqa: F401  # packs use them
from comfy_api.latest._io.schema import *
from comfy_api.latest._io.types import *
from comfy_api.latest._io.widgets import *
from comfy_api.latest._io.wires import *
from comfy_api.latest._io.wires import _IO_V3, _ComfyType, _StringIOType  # noqa: F401  # likewise
