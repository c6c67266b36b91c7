"""A node's schema, and the forms in which clients read it."""

from collections import Counter
from dataclasses import dataclass
from enum import Enum
from typing import Any

from comfy_api.latest._io.dynamic import DynamicInput
from comfy_api.latest._io.wires import add_to_dict_v1, add_to_dict_v3, plain


class Hidden(str, Enum):
    """What the server fills in."""

    unique_id = "UNIQUE_ID"
    prompt = "PROMPT"
    extra_pnginfo = "EXTRA_PNGINFO"
    dynprompt = "DYNPROMPT"
    auth_token_comfy_org = "AUTH_TOKEN_COMFY_ORG"
    api_key_comfy_org = "API_KEY_COMFY_ORG"


class HiddenHolder:
    """A node's hidden inputs, as `cls.hidden`; None for those it did not ask for."""

    def __init__(
        self,
        unique_id=None,
        prompt=None,
        extra_pnginfo=None,
        dynprompt=None,
        auth_token_comfy_org=None,
        api_key_comfy_org=None,
        **kwargs,
    ):
        self.unique_id = unique_id
        self.prompt = prompt
        self.extra_pnginfo = extra_pnginfo
        self.dynprompt = dynprompt
        self.auth_token_comfy_org = auth_token_comfy_org
        self.api_key_comfy_org = api_key_comfy_org

    def __getattr__(self, key):
        if key.startswith("__"):
            raise AttributeError(key)
        return None

    @classmethod
    def from_dict(cls, d):
        """From values by `Hidden`."""
        given = {plain(kind): value for kind, value in (d or {}).items()}
        return cls(**{hidden.name: given.get(hidden.value) for hidden in Hidden})


@dataclass(kw_only=True)
class _NodeFacts:
    """What every form of a class tells."""

    name: str = None
    display_name: str = None
    description: str = None
    python_module: Any = None
    category: str = None
    output_node: bool = None
    deprecated: bool = None
    experimental: bool = None
    api_node: bool = None


@dataclass
class NodeInfoV1(_NodeFacts):
    """A class as /object_info has it."""

    input: dict = None
    input_order: dict = None
    output: list = None
    output_is_list: list = None
    output_name: list = None
    output_tooltips: list = None


@dataclass
class NodeInfoV3(_NodeFacts):
    """A class by its own schema."""

    input: dict = None
    output: dict = None
    hidden: list = None


@dataclass
class Schema:
    """What `define_schema` returns."""

    node_id: str
    display_name: str = None
    category: str = "sd"
    inputs: list = None
    outputs: list = None
    hidden: list = None
    description: str = ""
    is_input_list: bool = False
    is_output_node: bool = False
    is_deprecated: bool = False
    is_experimental: bool = False
    is_api_node: bool = False
    not_idempotent: bool = False
    enable_expand: bool = False
    search_aliases: list = None
    essentials_category: str = None
    price_badge: Any = None
    is_dev_only: bool = False
    accept_all_inputs: bool = False
    has_intermediate_output: bool = False

    def validate(self):
        """Raises: ValueError where ids repeat."""
        inputs = Counter(i.id for i in self.inputs or ())
        outputs = Counter(o.id for o in self.outputs or ())
        issues = []
        for kind, ids in (("Input", inputs), ("Output", outputs)):
            repeated = [id for id, count in ids.items() if count > 1]
            if repeated:
                issues.append(f"{kind} ids must be unique, but {repeated} are not.")
        if issues:
            raise ValueError("\n".join(issues))

    def _ask(self, *wanted):
        self.hidden = list(self.hidden or ())
        self.hidden += [hidden for hidden in wanted if hidden not in self.hidden]

    def finalize(self):
        """Add the hidden inputs that the kind of node needs, and ids to outputs that have none."""
        if self.is_api_node:
            self._ask(Hidden.auth_token_comfy_org, Hidden.api_key_comfy_org)
        if self.is_output_node:
            self._ask(Hidden.prompt, Hidden.extra_pnginfo)
        for i, output in enumerate(self.outputs or ()):
            if output.id is None:
                output.id = f"_{i}_{output.io_type}_"

    def get_v1_info(self, cls):
        """As /object_info has it."""
        inputs = {"required": {}}
        for i in self.inputs or ():
            for one in i.get_dynamic() if isinstance(i, DynamicInput) else [i]:
                add_to_dict_v1(one, inputs)
        for hidden in self.hidden or ():
            inputs.setdefault("hidden", {})[hidden.name] = (hidden.value,)
        outputs = self.outputs or []
        return NodeInfoV1(
            input=inputs,
            input_order={section: list(listed) for section, listed in inputs.items()},
            output=[o.io_type for o in outputs],
            output_is_list=[o.is_output_list for o in outputs],
            output_name=[o.display_name or o.io_type for o in outputs],
            output_tooltips=[o.tooltip or None for o in outputs],
            **self._facts(cls),
        )

    def get_v3_info(self, cls):
        """By the schema's own names."""
        inputs, outputs = {}, {}
        for i in self.inputs or ():
            add_to_dict_v3(i, inputs)
        for o in self.outputs or ():
            add_to_dict_v3(o, outputs)
        hidden = [h.value for h in self.hidden or ()]
        return NodeInfoV3(input=inputs, output=outputs, hidden=hidden, **self._facts(cls))

    def _facts(self, cls):
        return {
            "name": self.node_id,
            "display_name": self.display_name,
            "category": self.category,
            "description": self.description,
            "output_node": self.is_output_node,
            "deprecated": self.is_deprecated,
            "experimental": self.is_experimental,
            "api_node": self.is_api_node,
            "python_module": getattr(cls, "RELATIVE_PYTHON_MODULE", "nodes"),
        }
