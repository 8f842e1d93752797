"""Console: bytes that come in pieces, are looked for, and end."""

from __future__ import annotations

import threading
import time

import pytest

from virtuoso_core import Console, InvalidStateError, WaitTimeoutError


class Scripted(Console):
    """What comes is in ``pieces``; it ends after the last when ``over`` says so."""

    def __init__(self, *pieces: bytes, over: bool = False) -> None:
        self.pieces, self.over, self.closed = list(pieces), over, 0
        self.written = b""

    def _receive(self, timeout: float | None) -> bytes:
        if self.pieces:
            return self.pieces.pop(0)
        if not self.ended:
            time.sleep(min(timeout or 0, 0.05))
        return b""

    def write(self, data: bytes) -> None:
        if self.ended:
            raise InvalidStateError("It ended.")
        self.written += data

    @property
    def ended(self) -> bool:
        return self.over and not self.pieces

    def close(self) -> None:
        self.closed += 1
        self.over = True


def test_a_text_in_pieces() -> None:
    console = Scripted(b"boot\r\nGUEST-", b"RE", b"ADY up\r\n# ", b"more")
    assert console.read_until(b"GUEST-READY", timeout=1) == b"boot\r\nGUEST-READY"
    assert console.read() == b" up\r\n# ", "what follows waits for the next look"
    assert console.read() == b"more"


def test_two_texts_in_one_piece() -> None:
    console = Scripted(b"one two three")
    assert console.read_until(b"one", 1) == b"one"
    assert console.read_until(b"two", 1) == b" two"
    assert console.read(0) == b" three"
    assert console.read(0) == b""


def test_a_text_that_never_comes() -> None:
    console = Scripted(b"login: ")
    with pytest.raises(WaitTimeoutError, match=r"within 0\.2 s b'# '; its last words: 'login: '") as caught:
        console.read_until(b"# ", timeout=0.2)
    assert (caught.value.phase, caught.value.evidence) == ("console", "login: ")
    assert 0.2 <= caught.value.elapsed < 5
    assert console.read(0) == b"login: ", "what came is not lost"


def test_a_console_that_ends_before() -> None:
    console = Scripted(b"Power ", b"down", over=True)
    with pytest.raises(WaitTimeoutError, match=r"ended and did not print b'# '.*'Power down'"):
        console.read_until(b"# ", timeout=60)


def test_the_last_words_are_looked_at_before_the_end() -> None:
    assert Scripted(b"Power ", b"down", over=True).read_until(b"down", timeout=0) == b"Power down"


def test_a_with_block_closes_it() -> None:
    with Scripted() as console:
        console.write(b"x")
    assert (console.closed, console.written, console.ended) == (1, b"x", True)
    with pytest.raises(InvalidStateError):
        console.write(b"y")


# libvirt's.


class Stream:
    """A stream of libvirt's as its console sees it; ``arrives`` is what its event loop would call."""

    def __init__(self) -> None:
        self.incoming: list[bytes | int] = []
        self.sent, self.room = b"", 1 << 20
        self.removed = self.aborted = self.finished = 0

    def eventAddCallback(self, events: int, callback: object, opaque: object) -> None:  # noqa: N802
        self.callback = callback

    def eventRemoveCallback(self) -> None:  # noqa: N802
        self.removed += 1

    def abort(self) -> None:
        self.aborted += 1

    def finish(self) -> None:
        self.finished += 1

    def recv(self, most: int) -> bytes | int:
        return self.incoming.pop(0) if self.incoming else -2

    def send(self, data: bytes) -> int:
        if not self.room:
            return -2
        taken = data[: self.room]
        self.sent += taken
        self.room -= len(taken)
        return len(taken)

    def arrives(self, *pieces: bytes) -> None:
        self.incoming += pieces
        self.callback(self, 1, None)  # type: ignore[operator]


@pytest.fixture
def stream() -> Stream:
    return Stream()


@pytest.fixture
def console(stream: Stream) -> Console:
    pytest.importorskip("libvirt")
    from virtuoso_core import connect
    from virtuoso_core.libvirt_base.console import LibvirtConsole

    vm = connect("test:///default").get("test")
    return LibvirtConsole(vm, vm.hypervisor.connection, stream)  # type: ignore[arg-type, attr-defined]


def test_libvirts_bytes(console: Console, stream: Stream) -> None:
    assert console.read(timeout=0) == b""
    stream.arrives(b"one", b"two")
    assert console.read() == b"onetwo"
    threading.Timer(0.1, stream.arrives, [b"three"]).start()
    assert console.read(timeout=20) == b"three"
    assert not console.ended


def test_libvirts_end(console: Console, stream: Stream) -> None:
    stream.arrives(b"last", b"")
    assert console.ended
    assert console.read() == b"last"
    assert console.read() == b""
    with pytest.raises(InvalidStateError, match="ended"):
        console.write(b"x")
    console.close()
    console.close()
    assert (stream.removed, stream.finished, stream.aborted) == (1, 1, 0)


def test_libvirts_stream_is_closed(console: Console, stream: Stream) -> None:
    """And a reader in another thread ends with it."""
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(console.read()), daemon=True)
    reader.start()
    time.sleep(0.1)
    assert reader.is_alive()
    console.close()
    reader.join(5)
    assert (got, console.ended) == ([b""], True)
    assert (stream.removed, stream.aborted) == (1, 1)
    with pytest.raises(InvalidStateError, match="closed before"):
        console.write(b"x")


def test_libvirt_takes_what_is_typed_in_pieces(console: Console, stream: Stream) -> None:
    stream.room = 3
    threading.Timer(0.1, setattr, [stream, "room", 100]).start()
    console.write(b"uname -a\n")
    assert stream.sent == b"uname -a\n"
