"""ComfyUI's `server`: the running server as packs reach it, with its route table and its websocket."""

import asyncio
import logging
import uuid

from aiohttp import web
from protocol import BinaryEventTypes

from backend.calling import current


class PromptServer:
    """`PromptServer.instance` is the one that packs use."""

    instance = None

    def __init__(self, loop, app=None):
        PromptServer.instance = self
        self.loop = loop
        self.routes = web.RouteTableDef()
        self.app = web.Application() if app is None else app
        self.supports = ["custom_nodes_from_web"]
        self.sockets = {}
        self.sockets_metadata = {}
        self.on_prompt_handlers = bridge.on_prompt
        self.messages = asyncio.Queue()
        self.web_root = None
        self.number = 0
        self.prompt_queue = PromptQueue(self)

    @property
    def client_id(self):
        """The client whose node runs; None where none does."""
        call = current()
        return None if call is None else call.client

    @client_id.setter
    def client_id(self, value):
        """Which client a call belongs to is known without being told."""

    @property
    def last_node_id(self):
        call = current()
        return None if call is None else call.node

    @last_node_id.setter
    def last_node_id(self, value):
        """As with `client_id`."""

    @property
    def last_prompt_id(self):
        call = current()
        return None if call is None else call.job

    @last_prompt_id.setter
    def last_prompt_id(self, value):
        """As with `client_id`."""

    def send_sync(self, event, data, sid=None):
        """Push an event to one client, or to all. Callable from any thread."""
        if isinstance(event, int):
            bridge.messenger.send_binary(event, bytes(data), sid)
        else:
            bridge.messenger.send(event, data, sid)

    async def send(self, event, data, sid=None):
        self.send_sync(event, data, sid)

    async def send_json(self, event, data, sid=None):
        self.send_sync(event, data, sid)

    def send_progress_text(self, text, node_id, sid=None):
        """Show a text on a node."""
        shown = text.decode() if isinstance(text, (bytes, bytearray)) else text
        bridge.messenger.send_text(shown, str(node_id), sid)

    def add_on_prompt_handler(self, handler):
        """A function from the request's JSON to the one that is queued."""
        self.on_prompt_handlers.append(handler)

    def trigger_on_prompt(self, json_data):
        """What the handlers make of a request; one that raises changes nothing."""
        for handler in self.on_prompt_handlers:
            try:
                json_data = handler(json_data)
            except Exception:  # around a custom node
                logging.warning("An on-prompt handler of a node pack raised", exc_info=True)
        return json_data

    def get_queue_info(self):
        return {"exec_info": {"queue_remaining": self.prompt_queue.get_tasks_remaining()}}

    def queue_updated(self):
        self.send_sync("status", {"status": self.get_queue_info()})

    def add_routes(self):
        """The server takes the route table by itself."""


class PromptQueue:
    """What packs ask of the queue."""

    def __init__(self, server):
        self.server = server
        self.currently_running = {}
        self.history = {}
        self.flags = {}

    def get_current_queue(self):
        """(running, pending), as GET /queue has them."""
        return bridge.queue()

    get_current_queue_volatile = get_current_queue

    def get_tasks_remaining(self):
        running, pending = bridge.queue()
        return len(running) + len(pending)

    def set_flag(self, name, data):
        self.flags[name] = data

    def get_flags(self, reset=True):
        flags = dict(self.flags)
        if reset:
            self.flags.clear()
        return flags


__all__ = ["BinaryEventTypes", "PromptQueue", "PromptServer", "uuid", "web"]
