"""The stream of a container: what is print, what is report, however it is cut into pieces."""

from __future__ import annotations

import io
import socket
import struct
import threading
from collections.abc import Iterable
from itertools import pairwise

from goalwright_executor.core import Limit, Limits
from goalwright_executor.sandbox.attached import Attached, Frames
from hypothesis import given, settings
from hypothesis import strategies as st

MARKER = b"\x1e0123456789abcdef\x1f"  # as the adapter makes them: no end of it is its beginning


def frame(source: int, payload: bytes) -> bytes:
    return struct.pack(">BxxxL", source, len(payload)) + payload


def pieces(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    at = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[begin:end] for begin, end in pairwise(at)]


def attend(wire: bytes, limits: Limits) -> tuple[Attached, bytes, list[bytes], list[str]]:
    """Everything that comes of `wire` before the engine closes the connection; a kill closes it."""
    ours, theirs = socket.socketpair()
    report = io.BytesIO()
    heard: list[bytes] = []
    kills: list[str] = []

    def kill() -> None:
        kills.append("kill")
        theirs.close()

    def send() -> None:
        try:
            theirs.sendall(wire)
            theirs.close()
        except OSError:
            return

    with ours:
        attached = Attached(ours, MARKER, report, limits, heard.append, kill)
        sender = threading.Thread(target=send)
        sender.start()
        attached.run()
        sender.join()
    return attached, report.getvalue(), heard, kills


LIMITS = Limits(seconds=10, memory_bytes=1, processes=1, disk_bytes=1 << 20, output_bytes=1 << 20)
texts = st.binary(max_size=200) | st.sampled_from(
    [MARKER[:5], MARKER[:-1], b"\x1e", b"\x1e0\x1e0123", MARKER[:7] + MARKER[:3]]
)


@settings(max_examples=40)
@given(
    texts,
    texts,
    texts,
    st.lists(st.integers(0, 10**6), max_size=6),
    st.lists(st.integers(0, 10**6), max_size=6),
)
def test_print_and_report_come_apart_at_the_marker_wherever_the_stream_is_cut(
    printed: bytes, complained: bytes, reported: bytes, cuts: list[int], breaks: list[int]
) -> None:
    if MARKER in printed:
        return
    out = [frame(1, piece) for piece in pieces(printed + MARKER + reported, cuts)]
    wire = b"".join([*out[:1], frame(2, complained), *out[1:]])
    frames = Frames()
    assert [one for piece in pieces(wire, breaks) for one in frames.feed(piece)] == list(Frames().feed(wire))
    attached, report, heard, kills = attend(wire, LIMITS)
    assert (bytes(attached.stdout), bytes(attached.stderr), report) == (printed, complained, reported)
    assert sorted(b"".join(heard)) == sorted(printed + complained)
    assert (attached.limit, kills) == (None, [])


def test_print_without_a_report_is_kept_to_its_last_byte() -> None:
    attached, report, _, _ = attend(frame(1, b"killed" + MARKER[:9]), LIMITS)
    assert bytes(attached.stdout) == b"killed" + MARKER[:9]
    assert report == b""


def test_too_much_print_kills_and_keeps_only_its_limit() -> None:
    attached, _, _, kills = attend(frame(1, b"x" * 30_000) * 100, LIMITS)
    assert attached.limit == Limit.OUTPUT
    assert len(attached.stdout) == LIMITS.output_bytes
    assert kills == ["kill"]
