"""A node is a typed function; its signature is its ComfyUI schema.

A default is the widget's default, `X | None` an optional input, keyword order the input order, `list[X]` a
whole list (where one input is a list, all are). What it returns says what kind of node it is: references (run
while lowering), ops (model work) or values (a host op).
"""

import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, replace
from typing import Annotated, Literal, Union, get_args, get_origin, get_type_hints

from backend.guiders import REFERENCES
from backend.library import Library
from backend.ops import Op
from backend.settings import Settings
from backend.storage import Storage
from backend.types import Wire
from backend.values import frozen

NodeKind = Literal["reference", "model", "value"]
Hidden = Literal[
    "PROMPT", "DYNPROMPT", "EXTRA_PNGINFO", "UNIQUE_ID", "AUTH_TOKEN_COMFY_ORG", "API_KEY_COMFY_ORG"
]
# parameters of these types are handed in by the server; they are no inputs
SERVICES = (Storage, Settings, Library)
_SCALARS = {int: "INT", float: "FLOAT", str: "STRING", bool: "BOOLEAN"}


# Widgets are compared as objects: `Annotated[..., widget] | None` hashes them, and dicts can't be.
@frozen(eq=False)
class Widget:
    """Options of an input, as the front end reads them; `type` where it isn't the annotation's own."""

    options: Mapping[str, object] = field(default_factory=dict)
    type: str | None = None


def Int(min: int | None = None, max: int | None = None, **options: object) -> Widget:
    """A whole number; `min` and `max` are inclusive. options: step, control_after_generate, tooltip ..."""
    return Widget({k: v for k, v in {"min": min, "max": max, **options}.items() if v is not None})


def Float(min: float | None = None, max: float | None = None, **options: object) -> Widget:
    """A number; options: step, round, tooltip ..."""
    return Widget({k: v for k, v in {"min": min, "max": max, **options}.items() if v is not None})


def String(**options: object) -> Widget:
    """Text; options: multiline, dynamic_prompts (sent as dynamicPrompts), placeholder, tooltip ..."""
    return Widget({"dynamicPrompts" if k == "dynamic_prompts" else k: v for k, v in options.items()})


def Boolean(**options: object) -> Widget:
    """A switch; options: label_on, label_off, tooltip ..."""
    return Widget(options)


@frozen(eq=False)
class Combo(Widget):
    """One of several strings: a fixed list, or one read from storage each time (file lists).

    style: "list" serves the options as the type (ComfyUI's older form), "COMBO" as an option of type COMBO.
    """

    among: Sequence[str] | Callable[[Storage], Sequence[str]] = ()
    style: Literal["list", "COMBO"] = "list"

    def now(self, storage: Storage) -> list[str]:
        """The options as of now."""
        return list(self.among(storage) if callable(self.among) else self.among)


def Choice(
    among: Sequence[str] | Callable[[Storage], Sequence[str]],
    style: Literal["list", "COMBO"] = "list",
    **options: object,
) -> Combo:
    """One of `among`. options: image_upload, tooltip ..."""
    return Combo(options=options, among=among, style=style)


@frozen
class HiddenInput:
    """A parameter that the server fills: `Annotated[object, HiddenInput("PROMPT")]`."""

    kind: Hidden


@frozen
class InputSpec:
    """One input. `type` is the wire's name; `choice` is set for combos; options are the front end's.

    lazy: its source runs only when the node's `check_lazy` asks for it. raw_link: where a node is connected,
    the function is handed the link `[node id, slot]` and not the value (the source runs first all the same).
    """

    name: str
    type: str
    options: Mapping[str, object]
    optional: bool = False
    choice: Combo | None = None
    lazy: bool = False
    raw_link: bool = False

    def config(self, choices: Sequence[str] = ()) -> list[object]:
        """`[type, options]` as clients read it; `choices` are the options of a combo as of now."""
        options = dict(self.options)
        options |= {"lazy": True} if self.lazy else {}
        options |= {"rawLink": True} if self.raw_link else {}
        if self.choice is None:
            return [self.type, options]
        if self.choice.style == "list":
            return [list(choices), options]
        return [self.type, {"options": list(choices), **options}]


@frozen
class OutputSpec:
    type: str | tuple[str, ...]  # a tuple: a combo's choices
    name: str
    is_list: bool = False
    tooltip: str | None = None


@frozen
class Result:
    """What a value node returns when it has more to say than its outputs.

    ui: what `executed` and the history show. expand (dynamic nodes only): nodes in API format, by id,
    that run in place of this one; values may then be links `[node id, slot]` to their outputs. pictures:
    PNG files for the client alone, sent one by one.
    """

    values: tuple[object, ...] = ()
    ui: Mapping[str, Sequence[object]] | None = None
    expand: Mapping[str, Mapping[str, object]] | None = None
    pictures: tuple[bytes, ...] = ()


@frozen
class NodeSpec:
    """Everything the server knows of a node class, built in or third-party.

    function takes keyword arguments: inputs, hidden inputs by parameter name, services by parameter name.
    fingerprint(**literals) -> object: enters the content key (a changed file). validate(**literals) -> True
    or a text of refusal, for the inputs named in `validates`.

    What only third-party nodes use is described in docs/architecture.md, "What a third-party node may do":
    check_lazy(**inputs) -> names of the lazy inputs that it needs; make() -> the object that lives as long as
    the node stays, handed first to function and check_lazy; open_inputs(name) -> what an input is that the
    class doesn't list, None where it takes none of that name.
    """

    name: str
    function: Callable[..., object]
    kind: NodeKind
    category: str
    inputs: tuple[InputSpec, ...]
    outputs: tuple[OutputSpec, ...]
    display_name: str = ""
    description: str = ""
    module: str = "nodes"
    hidden: Mapping[str, str] = field(default_factory=dict)
    services: Mapping[str, type] = field(default_factory=dict)
    output_node: bool = False
    input_is_list: bool = False
    fingerprint: Callable[..., object] | None = None
    validate: Callable[..., bool | str] | None = None
    validates: tuple[str, ...] = ()  # "input_types" among them: types of links are its own affair
    validates_all: bool = False  # its validator takes every input
    check_lazy: Callable[..., object] | None = None
    make: Callable[[], object] | None = None
    open_inputs: Callable[[str], "InputSpec | None"] | None = None
    is_async: bool = False  # function is a coroutine function
    dynamic: bool = False  # what it returns may block what follows, or stand for other nodes
    per_id: bool = False  # its results belong to one node id and are never shared by shape
    serial: bool = False  # third-party code: one call at a time
    extra: Mapping[str, object] = field(default_factory=dict)  # deprecated, experimental, search_aliases ...
    lazy_names: frozenset[str] = field(init=False, default=frozenset())  # of `inputs`
    raw_names: frozenset[str] = field(init=False, default=frozenset())
    _by_name: Mapping[str, InputSpec] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_name", {i.name: i for i in reversed(self.inputs)})
        object.__setattr__(self, "lazy_names", frozenset(i.name for i in self.inputs if i.lazy))
        object.__setattr__(self, "raw_names", frozenset(i.name for i in self.inputs if i.raw_link))

    def input(self, name: str) -> InputSpec | None:
        declared = self._by_name.get(name)
        if declared is None and self.open_inputs is not None:
            return self.open_inputs(name)
        return declared

    def handles(self, name: str) -> bool:
        """Whether the class's own validator answers for this input."""
        return self.validates_all or name in self.validates


def node(
    name: str,
    *,
    category: str,
    display_name: str | None = None,
    module: str = "nodes",
    outputs: Sequence[str] | None = None,
    output_node: bool = False,
    fingerprint: Callable[..., object] | None = None,
    validate: Callable[..., bool | str] | None = None,
    validates: Sequence[str] = (),
    lazy: Sequence[str] = (),
    check_lazy: Callable[..., object] | None = None,
    **extra: object,
) -> Callable[[Callable[..., object]], NodeSpec]:
    """Turn a typed function into a NodeSpec. `outputs` renames the outputs (default: their types); `lazy`
    names inputs that run only when `check_lazy` asks for them.

    Raises: TypeError where an annotation says no wire type.
    """

    def make(function: Callable[..., object]) -> NodeSpec:
        hints = get_type_hints(function, include_extras=True)
        listed = [_without_list(hint) for hint in _returned(hints.pop("return", type(None)))]
        returned = [hint for hint, _ in listed]
        kind = _kind(returned)
        types_out = [wire_name(get_args(r)[0] if _is_op(r) else r) for r in returned]
        names = list(outputs or types_out)
        parameters = inspect.signature(function).parameters
        inputs: list[InputSpec] = []
        hidden: dict[str, str] = {}
        services: dict[str, type] = {}
        takes_lists = False
        for key, hint in hints.items():
            mark = next((m for m in getattr(hint, "__metadata__", ()) if isinstance(m, HiddenInput)), None)
            if mark is not None:
                hidden[key] = mark.kind
            elif hint in SERVICES:
                services[key] = hint
            else:
                hint, is_list = _without_list(hint)
                takes_lists = takes_lists or is_list
                inputs.append(replace(_input(key, hint, parameters[key].default), lazy=key in lazy))
        return NodeSpec(
            name=name,
            function=function,
            kind=kind,
            category=category,
            inputs=tuple(inputs),
            outputs=tuple(
                OutputSpec(type_out, name_out, is_list)
                for type_out, name_out, (_, is_list) in zip(types_out, names, listed, strict=True)
            ),
            display_name=name if display_name is None else display_name,
            description=inspect.cleandoc(function.__doc__ or ""),
            module=module,
            hidden=hidden,
            services=services,
            output_node=output_node,
            input_is_list=takes_lists,
            fingerprint=fingerprint,
            validate=validate,
            validates=tuple(validates),
            check_lazy=check_lazy,
            extra=extra,
        )

    return make


def wire_name(hint: object) -> str:
    """The ComfyUI name of an annotation's type. Raises: TypeError if it has none."""
    for mark in getattr(hint, "__metadata__", ()):
        if isinstance(mark, Wire):
            return mark.name
        if isinstance(mark, Combo):
            return "COMBO"
        if isinstance(mark, Widget) and mark.type:
            return mark.type
    bare = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    if bare in _SCALARS:
        return _SCALARS[bare]
    if isinstance(name := getattr(bare, "wire", None), str):
        return name
    raise TypeError(
        f"{hint!r} names no wire type: annotate it with Wire(...), or give its class a `wire` name"
    )


def _input(key: str, hint: object, default: object) -> InputSpec:
    hint, optional = _without_none(hint)
    widget = next((m for m in getattr(hint, "__metadata__", ()) if isinstance(m, Widget)), Widget())
    options = dict(widget.options)
    if default is not inspect.Parameter.empty and default is not None:
        options = {"default": default, **options}
    return InputSpec(key, wire_name(hint), options, optional, widget if isinstance(widget, Combo) else None)


def _without_list(hint: object) -> tuple[object, bool]:
    """`list[X]` -> (X, True): the input arrives, or the output leaves, as a list; X -> (X, False)."""
    return (get_args(hint)[0], True) if get_origin(hint) is list else (hint, False)


def _without_none(hint: object) -> tuple[object, bool]:
    """`X | None` -> (X, True); X -> (X, False)."""
    if get_origin(hint) not in (Union, types.UnionType):
        return hint, False
    rest = tuple(a for a in get_args(hint) if a is not type(None))
    if len(rest) == len(get_args(hint)):
        return hint, False
    return (rest[0] if len(rest) == 1 else Union[rest]), True  # noqa: UP007  # built from values


def _returned(hint: object) -> list[object]:
    """The annotations of the outputs, one each; None and Result mean that there are none."""
    if hint is type(None) or hint is Result:
        return []
    if get_origin(hint) is tuple:
        return list(get_args(hint))
    return [hint]


def _is_op(hint: object) -> bool:
    return get_origin(hint) is Op


def _kind(returned: Sequence[object]) -> NodeKind:
    if any(_is_op(hint) for hint in returned):
        return "model"
    bare = [get_args(h)[0] if get_origin(h) is Annotated else h for h in returned]
    parts = [part for hint in bare for part in (get_args(hint) if get_origin(hint) else (hint,))]
    return "reference" if parts and all(part in REFERENCES for part in parts) else "value"
