"""The base class of V3 nodes, and what they return."""

import inspect
from abc import ABC, abstractmethod
from dataclasses import asdict

from comfy_execution.graph_utils import ExecutionBlocker

from comfy_api.internal import (
    _ComfyNodeInternal,
    _NodeOutputInternal,
    classproperty,
    first_real_override,
)
from comfy_api.latest._io.schema import HiddenHolder


def _from_schema(read):
    """A class property of classic nodes, read from the schema."""
    return classproperty(lambda cls: read(cls.SCHEMA or cls.GET_SCHEMA()))


class _ComfyNodeBaseInternal(_ComfyNodeInternal):
    """What every V3 node has. Its classic attributes follow from its schema."""

    RELATIVE_PYTHON_MODULE = None
    SCHEMA = None
    resources = None
    hidden = None

    @classmethod
    def define_schema(cls):
        raise NotImplementedError

    @classmethod
    def execute(cls, **kwargs):
        raise NotImplementedError

    @classmethod
    def validate_inputs(cls, **kwargs):
        raise NotImplementedError

    @classmethod
    def fingerprint_inputs(cls, **kwargs):
        raise NotImplementedError

    @classmethod
    def check_lazy_status(cls, **kwargs):
        return [name for name in kwargs if kwargs[name] is None]

    def __init__(self):
        self.local_resources = None
        self.__class__.VALIDATE_CLASS()

    @classmethod
    def GET_BASE_CLASS(cls):
        return _ComfyNodeBaseInternal

    @classmethod
    def VALIDATE_CLASS(cls):
        """Raises: Exception where the class lacks a method of its own."""
        for needed in ("define_schema", "execute"):
            if first_real_override(cls, needed) is None:
                raise Exception(f"No {needed} function was defined for node class {cls.__name__}.")

    @classproperty
    def FUNCTION(cls):
        return (
            "EXECUTE_NORMALIZED_ASYNC" if inspect.iscoroutinefunction(cls.execute) else "EXECUTE_NORMALIZED"
        )

    @classmethod
    def EXECUTE_NORMALIZED(cls, *args, **kwargs):
        """`execute`, with whatever it returns as a NodeOutput."""
        return cls._normalized(cls.execute(*args, **kwargs))

    @classmethod
    async def EXECUTE_NORMALIZED_ASYNC(cls, *args, **kwargs):
        return cls._normalized(await cls.execute(*args, **kwargs))

    @classmethod
    def _normalized(cls, returned):
        output = _output_of(returned)
        if output.expand is not None and not (cls.SCHEMA or cls.GET_SCHEMA()).enable_expand:
            raise Exception(
                f"Node {cls.__name__} returned `expand`, but its schema doesn't say enable_expand=True."
            )
        return output

    @classmethod
    def PREPARE_CLASS_CLONE(cls, hidden_inputs):
        """A class like this one that holds the hidden inputs of one call."""
        clone = type(f"{cls.__name__}Clone", (cls,), {"__module__": cls.__module__})
        clone.hidden = HiddenHolder.from_dict(hidden_inputs)
        return clone

    @classmethod
    def GET_NODE_INFO_V1(cls):
        return asdict(cls.GET_SCHEMA().get_v1_info(cls))

    @classmethod
    def GET_NODE_INFO_V3(cls):
        return asdict(cls.GET_SCHEMA().get_v3_info(cls))

    DESCRIPTION = _from_schema(lambda s: s.description)
    CATEGORY = _from_schema(lambda s: s.category)
    EXPERIMENTAL = _from_schema(lambda s: s.is_experimental)
    DEPRECATED = _from_schema(lambda s: s.is_deprecated)
    API_NODE = _from_schema(lambda s: s.is_api_node)
    OUTPUT_NODE = _from_schema(lambda s: s.is_output_node)
    INPUT_IS_LIST = _from_schema(lambda s: s.is_input_list)
    NOT_IDEMPOTENT = _from_schema(lambda s: s.not_idempotent)
    OUTPUT_IS_LIST = _from_schema(lambda s: [o.is_output_list for o in s.outputs or ()])
    RETURN_TYPES = _from_schema(lambda s: [o.io_type for o in s.outputs or ()])
    RETURN_NAMES = _from_schema(lambda s: [o.display_name or o.io_type for o in s.outputs or ()])
    OUTPUT_TOOLTIPS = _from_schema(lambda s: [o.tooltip or None for o in s.outputs or ()])

    @classmethod
    def INPUT_TYPES(cls, include_hidden=True, return_schema=False):
        """As a classic class has it."""
        schema = cls.FINALIZE_SCHEMA()
        inputs = schema.get_v1_info(cls).input
        if not include_hidden:
            inputs.pop("hidden", None)
        return (inputs, schema) if return_schema else inputs

    @classmethod
    def FINALIZE_SCHEMA(cls):
        schema = cls.define_schema()
        schema.finalize()
        return schema

    @classmethod
    def GET_SCHEMA(cls):
        """The schema, checked. Raises: Exception or ValueError for what is wrong with it."""
        cls.VALIDATE_CLASS()
        schema = cls.FINALIZE_SCHEMA()
        schema.validate()
        cls.SCHEMA = schema
        return schema


class ComfyNode(_ComfyNodeBaseInternal):
    """Base class of V3 nodes."""

    @classmethod
    def GET_BASE_CLASS(cls):
        return ComfyNode


class NodeOutput(_NodeOutputInternal):
    """What a V3 node returns."""

    def __init__(self, *args, ui=None, expand=None, block_execution=None):
        self.args = args
        self.ui = ui
        self.expand = expand
        self.block_execution = block_execution

    @property
    def result(self):
        return self.args if len(self.args) > 0 else None

    @classmethod
    def from_dict(cls, data):
        """From what a classic node returns."""
        result = data.get("result", ())
        if isinstance(result, ExecutionBlocker):
            return cls(block_execution=result.message)
        return cls(*result, ui=data.get("ui"), expand=data.get("expand"))

    def __getitem__(self, index):
        return self.args[index]


def _output_of(returned):
    match returned:
        case None:
            return NodeOutput()
        case NodeOutput():
            return returned
        case tuple():
            return NodeOutput(*returned)
        case dict():
            return NodeOutput.from_dict(returned)
        case ExecutionBlocker():
            return NodeOutput(block_execution=returned.message)
    raise Exception(f"Invalid return type from node: {type(returned)}")


class _UIOutput(ABC):
    """Something that clients show."""

    def __init__(self):
        pass

    @abstractmethod
    def as_dict(self): ...
