"""A node pack as third parties write them: the nodes that the recorded exchanges were made with."""

import asyncio
import time

import comfy.utils
from comfy_execution.graph import ExecutionBlocker
from comfy_execution.graph_utils import GraphBuilder
from PIL import Image
from server import PromptServer


class AnyType(str):
    def __ne__(self, other):
        return False


ANY = AnyType("*")


def told(a, b):
    return {"ui": {"v": [f"{a!r}|{b!r}"]}, "result": (a,)}


class Probe:
    RETURN_TYPES = ("INT",)
    FUNCTION = "run"
    CATEGORY = "probes"


class ProbeEcho(Probe):
    RETURN_TYPES = (ANY,)
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"a": (ANY,)}, "optional": {"b": (ANY,)}}

    def run(self, a, b=None):
        return told(a, b)


class ProbeEchoList(ProbeEcho):
    INPUT_IS_LIST = True


class ProbeInt(Probe):
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"v": ("INT", {"default": 0, "min": -5, "max": 5})}}

    def run(self, v):
        return (v,)


class ProbeList(Probe):
    OUTPUT_IS_LIST = (True,)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"n": ("INT", {"default": 3})}}

    def run(self, n):
        return (list(range(n)),)


class ProbeLazy(Probe):
    @classmethod
    def INPUT_TYPES(cls):
        lazy = ("INT", {"lazy": True})
        return {"required": {"cond": ("BOOLEAN", {"default": True}), "t": lazy, "f": lazy}}

    def check_lazy_status(self, cond, t=None, f=None):
        return ["t" if cond else "f"] if (t if cond else f) is None else []

    def run(self, cond, t=None, f=None):
        return (t if cond else f,)


class ProbeExpand(Probe):
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"v": ("INT", {"default": 0}), "cycle": ("BOOLEAN", {"default": False})}}

    def run(self, v, cycle):
        graph = GraphBuilder()
        first = graph.node("ProbeEcho") if cycle else graph.node("ProbeInt", v=v)
        echo = graph.node("ProbeEcho", a=first.out(0))
        if cycle:
            first.set_input("a", echo.out(0))
        return {"result": (echo.out(0),), "expand": graph.finalize()}


class ProbeAsync(Probe):
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"v": ("INT", {"default": 0}), "delay": ("FLOAT", {"default": 0.1})}}

    async def run(self, v, delay):
        await asyncio.sleep(delay)
        return (v,)


class ProbeBlock(Probe):
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"v": ("INT", {"default": 0}), "msg": ("STRING", {"default": ""})}}

    def run(self, v, msg):
        return (ExecutionBlocker(msg or None),)


class ProbeAlways(Probe):
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"v": ("INT", {"default": 0})}}

    @classmethod
    def IS_CHANGED(cls, v):
        return float("nan")

    def run(self, v):
        return (v,)


class ProbeValidate(Probe):
    RETURN_TYPES = ()
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"v": ("INT", {"default": 0, "min": 0, "max": 3}), "combo": (["a", "b"],)}}

    @classmethod
    def VALIDATE_INPUTS(cls, v):
        if v == 7:
            return "seven not allowed"
        if v == 99:
            raise RuntimeError("validator exploded")
        return True

    def run(self, v, combo):
        return {"ui": {"v": [v]}}


class ProbeSlow(Probe):
    RETURN_TYPES = ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls):
        numbers = {"steps": ("INT", {"default": 2}), "delay": ("FLOAT", {"default": 0.1})}
        return {"required": {"image": ("IMAGE",), **numbers, "preview": ("BOOLEAN", {"default": False})}}

    def run(self, image, steps, delay, preview):
        bar = comfy.utils.ProgressBar(steps)
        for step in range(1, steps + 1):
            time.sleep(delay)
            shown = ("JPEG", Image.new("RGB", (1024, 768), (step * 20, 0, 0)), 512) if preview else None
            bar.update_absolute(step, steps, shown)
        return (image,)


class ProbeText(Probe):
    RETURN_TYPES = ("STRING",)
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"text": ("STRING", {"default": ""})}, "hidden": {"unique_id": "UNIQUE_ID"}}

    def run(self, text, unique_id=None):
        PromptServer.instance.send_progress_text(f"progress: {text}", unique_id)
        return {"ui": {"text": [text]}, "result": (text,)}


NODE_CLASS_MAPPINGS = {
    cls.__name__: cls
    for cls in (
        *(ProbeEcho, ProbeEchoList, ProbeInt, ProbeList, ProbeLazy, ProbeExpand, ProbeAsync, ProbeBlock),
        *(ProbeAlways, ProbeValidate, ProbeSlow, ProbeText),
    )
}
