from hypothesis import given
from hypothesis import strategies as st

from backend.types import ClientId
from web.outgoing import HARD_LIMIT, SOFT_LIMIT, Client, Frame


class Transport:
    aborted = False

    def abort(self) -> None:
        self.aborted = True


def a_client(transport: Transport) -> Client:
    return Client(ClientId("slow"), None, transport)  # type: ignore[arg-type]  # nothing is sent


async def test_a_slow_client_keeps_the_newest_of_what_replaces_itself():
    client = a_client(Transport())
    for n in range(SOFT_LIMIT):
        client.put(Frame(b"text %d" % n))
    for n in range(1000):
        client.put(Frame(b"progress %d" % n, replaces=("progress", "j")))
    client.put(Frame(b"end"))
    assert len(client.waiting) == SOFT_LIMIT + 2
    assert [f.data for f in client.waiting.values()][-2:] == [b"progress 999", b"end"]
    assert client.waiting_bytes == sum(len(f.data) for f in client.waiting.values())


async def test_a_frame_that_is_put_by_goes_with_the_next_one_that_is_not_and_in_its_place():
    client = a_client(Transport())
    client.put_by(Frame(b"status"))
    assert not client.wake.is_set()
    client.put(Frame(b"start"))
    assert client.wake.is_set()
    assert [f.data for f in client.waiting.values()] == [b"status", b"start"]


async def test_a_client_that_never_reads_is_dropped():
    transport = Transport()
    client = a_client(transport)
    for _ in range(HARD_LIMIT):
        client.put(Frame(b"text"))
    assert not transport.aborted
    client.put(Frame(b"text"))
    assert transport.aborted
    assert client.waiting == {}


@given(st.binary(max_size=70_000), st.booleans())
def test_a_frame_of_ours_reads_as_the_message_it_carries(data, binary):
    frame = Frame(data, binary)
    framed = frame.head + frame.data
    assert framed[0] == (0x82 if binary else 0x81)
    size, start = framed[1], 2
    if size == 126:
        size, start = int.from_bytes(framed[2:4], "big"), 4
    elif size == 127:
        size, start = int.from_bytes(framed[2:10], "big"), 10
    assert (size, framed[start:]) == (len(data), data)
