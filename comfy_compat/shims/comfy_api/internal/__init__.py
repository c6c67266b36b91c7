"""ComfyUI's `comfy_api.internal`: bases by which V3 nodes and their outputs are known, and small tools."""

from dataclasses import asdict


class _ComfyNodeInternal:
    """Base of every V3 node, of whatever version of the API."""

    @classmethod
    def GET_NODE_INFO_V1(cls): ...


class _NodeOutputInternal:
    """Base of every V3 output."""


class classproperty:
    """A property of the class itself."""

    def __init__(self, f):
        self.f = f

    def __get__(self, obj, owner):
        return self.f(owner)


def prune_dict(d):
    """A dict without the keys whose value is None."""
    return {key: value for key, value in d.items() if value is not None}


def as_pruned_dict(dataclass_obj):
    return prune_dict(asdict(dataclass_obj))


def is_class(obj):
    return isinstance(obj, type)


def first_real_override(cls, name, *, base=None):
    """The method `name`, bound to `cls`, where a class below `base` defines it; else None."""
    base = cls.GET_BASE_CLASS() if base is None else base
    for owner in cls.mro():
        if owner is base:
            return None
        if name in vars(owner):
            return getattr(cls, name)
    return None
