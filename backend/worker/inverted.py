"""Plain code that asks for denoised latents, as a generator of requests: the code runs in a thread of its
own, which stands still while its request is answered.
"""

import threading
from collections.abc import Callable, Generator
from queue import SimpleQueue
from typing import Generic, TypeVar

import torch
from torch import Tensor

from backend.errors import Interrupted
from backend.sampling.request import DenoiseRequest
from backend.values import frozen

T = TypeVar("T")
Ask = Callable[[DenoiseRequest], Tensor]


@frozen
class _End(Generic[T]):
    """How the code ended: one of the two is there."""

    value: T | None = None
    error: BaseException | None = None


class _Talk(Generic[T]):
    """What the code's thread and the generator say to each other, in turn."""

    def __init__(self, work: Callable[[Ask], T]) -> None:
        self._work = work
        self.said = SimpleQueue[DenoiseRequest | _End[T]]()
        self.replies = SimpleQueue[Tensor | None]()
        self._over = False
        self._modes = torch.is_inference_mode_enabled(), torch.is_grad_enabled()  # of a thread, not of all

    def ask(self, request: DenoiseRequest) -> Tensor:
        """From the code: the request's answer. Raises: Interrupted once the run was given up."""
        reply = None
        if not self._over:
            self.said.put(request)
            reply = self.replies.get()
        if reply is None:
            self._over = True
            raise Interrupted
        return reply

    def run(self) -> None:
        inference, grad = self._modes
        try:
            with torch.inference_mode(inference), torch.set_grad_enabled(grad and not inference):
                end = _End(self._work(self.ask))
        except BaseException as error:  # whoever drives the generator gets it
            end = _End(None, error)
        self.said.put(end)


def inverted(work: Callable[[Ask], T]) -> Generator[DenoiseRequest, Tensor, T]:
    """The run of `work`, which may `ask` what the generator yields. Closing it makes `ask` raise Interrupted.

    Raises: whatever `work` raises.
    """
    talk = _Talk(work)
    threading.Thread(target=talk.run, name="foreign-run", daemon=True).start()
    said = talk.said.get()
    while not isinstance(said, _End):
        try:
            reply = yield said
        except BaseException:
            talk.replies.put(None)
            raise
        talk.replies.put(reply)
        said = talk.said.get()
    if said.error is not None:
        raise said.error
    return said.value  # type: ignore[return-value]  # T may be None itself
