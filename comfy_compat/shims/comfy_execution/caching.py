"""ComfyUI's `comfy_execution.caching`. The server keeps results by content; there is nothing to set up."""


class CacheType:
    CLASSIC = 0
    LRU = 1
    NONE = 2
