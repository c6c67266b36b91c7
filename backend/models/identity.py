"""What a model file holds, by content: the same tensors have the same identity in whatever file they are.

A component's identity is BLAKE3 over its tensors in the order of their canonical names (the container's
prefix left out), each with its dtype, shape and the BLAKE3 of its bytes: the file is read once, whatever
number of components share its tensors. It is read, not mapped: a file cut short meanwhile is an error then
and not the end of the process.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

from blake3 import blake3

from backend.components import Component, Contents, File
from backend.deferred import torch
from backend.errors import BadFile
from backend.models.gguf import is_gguf, read_gguf
from backend.models.header import Header, TensorInfo, check_unchanged, read_header
from backend.models.parts import RULES_VERSION, Place, places
from backend.models.pickles import is_pickle, named_tensors
from backend.models.text_places import checkpoint_encoding
from backend.values import frozen

if TYPE_CHECKING:
    from torch import Tensor

VERSION = 1001 + RULES_VERSION  # of all that an identity hangs on, but the file
_LENGTH = 20  # bytes of an identity: two different components never share one by chance or by design
_CHUNK = 8 << 20  # bytes read at once
_THREADED = 1 << 20  # bytes from which several threads hash faster than one
_AGAIN = "Wait until it is written, then run the prompt again."

Digests: TypeAlias = Mapping[str, "TensorDigest"]  # by the names in the file
Progress: TypeAlias = Callable[[int], object]  # told the bytes read since the last call


@frozen
class TensorDigest:
    info: TensorInfo
    nbytes: int
    digest: bytes


def identify(file: File, progress: Progress = lambda nbytes: None) -> Contents:
    """Read a file through. Releases the interpreter while it reads and hashes.

    Raises: BadFile where the file is damaged, changes meanwhile, or is no longer the one that `file` says.
    """
    if is_pickle(file.path):
        with opened(file):
            header, tensors = named_tensors(file.path)
            digests = _of_tensors(header, tensors, progress)
    else:
        with opened(file) as stream:
            header = read_gguf(file.path) if is_gguf(file.path) else read_header(file.path)
            digests = dict(_of_stream(header, stream, progress))
    whole = Place("denoiser", {name: name for name in header}, contained=False)
    components = [_component(place, digests) for place in places(header)]
    nbytes = sum(d.nbytes for d in digests.values())
    return Contents(_identity(whole, digests), nbytes, tuple(components), checkpoint_encoding(header))


@contextmanager
def opened(file: File) -> Iterator[BinaryIO]:
    """The file, open; held to be the one that is meant before and after. Raises: BadFile."""
    try:
        with open(file.path, "rb", buffering=0) as stream:
            check_unchanged(file)
            yield stream
            check_unchanged(file)
    except OSError as error:
        raise BadFile(
            file.path, error.strerror or str(error), "Check the name and the permissions."
        ) from error


def _of_stream(header: Header, stream: BinaryIO, progress: Progress) -> Iterator[tuple[str, TensorDigest]]:
    """In the order of the file, so that disks read ahead."""
    buffer = memoryview(bytearray(_CHUNK))
    for name, info in sorted(header.tensors.items(), key=lambda item: item[1].span):
        start, end = info.span
        stream.seek(start)
        hasher = _hasher(end - start)
        while start < end:
            count = stream.readinto(buffer[: min(_CHUNK, end - start)])  # type: ignore[attr-defined]
            if not count:
                raise BadFile(header.path, f"the file ends within tensor {name!r}", _AGAIN)
            hasher.update(buffer[:count])
            start += count
            progress(count)
        yield name, TensorDigest(info, info.span[1] - info.span[0], hasher.digest())


def _of_tensors(header: Header, tensors: "Mapping[str, Tensor]", progress: Progress) -> Digests:
    digests: dict[str, TensorDigest] = {}
    for name, value in tensors.items():
        data = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data
        digest = _hasher(value.nbytes).update(data).digest()
        digests[name] = TensorDigest(header.tensors[name], value.nbytes, digest)
        progress(value.nbytes)
    return digests


def _hasher(nbytes: int) -> blake3:
    return blake3(max_threads=blake3.AUTO if nbytes >= _THREADED else 1)


def _component(place: Place, digests: Digests) -> Component:
    nbytes = sum(digests[name].nbytes for name in place.names.values())
    return Component(place.kind, _identity(place, digests), nbytes, place.contained, place.part)


def _identity(place: Place, digests: Digests) -> str:
    hasher = blake3()
    for name, inside in sorted(place.names.items()):
        tensor = digests[inside]
        _field(hasher, name, tensor.info.dtype, ",".join(map(str, tensor.info.shape)))
        hasher.update(tensor.digest)
    _field(hasher, *place.marks)
    return hasher.hexdigest(length=_LENGTH)


def _field(hasher: blake3, *texts: str) -> None:
    for text in _lengths(texts):
        hasher.update(text)


def _lengths(texts: Iterable[str]) -> Iterator[bytes]:
    """Texts that can't run into each other."""
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        yield len(data).to_bytes(4, "little") + data
