"""RecvBuf against a dictionary of bytes: exact and exactly once, in any order and with any overlap."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from stoq.core.containers import RecvBuffer

OK, FINAL_SIZE = 0, -2
Act = tuple[str, int, int, bool]

ACTS = st.sampled_from([30, 3000, 20_000, 200_000]).flatmap(
    lambda window: st.lists(
        st.tuples(
            st.sampled_from(["push", "push", "push", "near", "near", "odd", "take", "some", "detach"]),
            st.integers(0, window),
            st.sampled_from([0, 1, 2, 17, 1400, 9000]).map(lambda n: min(n, window // 2 + 1)),
            st.sampled_from([False] * 9 + [True]),
        ),
        max_size=60,
    )
)


class Model:
    """What the peer sent first, byte by byte."""

    def __init__(self) -> None:
        self.held: dict[int, int] = {}
        self.next = 0
        self.highest = 0
        self.final: int | None = None

    def push(self, offset: int, data: bytes, fin: bool) -> int:
        end = offset + len(data)
        if self.final is not None and (end > self.final or (fin and end != self.final)):
            return FINAL_SIZE
        if fin and end < self.highest:
            return FINAL_SIZE
        for i, byte in enumerate(data):
            self.held.setdefault(offset + i, byte)
        while self.next in self.held:
            self.next += 1
        self.highest = max(self.highest, end)
        if fin:
            self.final = end
        return OK


@settings(max_examples=200, deadline=None)
@given(ACTS)
def test_same_as_a_dictionary(acts: list[Act]) -> None:
    b = RecvBuffer()
    model = Model()
    got = bytearray()
    serial = 0

    def push(offset: int, length: int, fin: bool) -> None:
        nonlocal serial
        serial += 1  # overlapping frames disagree about every byte
        data = bytes((serial * 37 + i) & 0xFF for i in range(length))
        assert b.push(offset, data, fin) == model.push(offset, data, fin)

    for kind, at, n, fin in acts:
        if kind == "push":
            push(at, n, fin)
        elif kind == "near":
            push(max(0, model.next - at % 3), n, fin)
        elif kind == "odd":
            for offset in range(at, at + min(n, 40), 2):
                push(offset, 1, False)
        elif kind == "take":
            got += b.take()
        elif kind == "some":
            got += b.take_some(at)
        else:
            b.detach()
        assert b.valid
        assert (b.next, b.highest, b.final_size) == (model.next, model.highest, model.final)
        assert len(got) + b.pending == model.next
        assert b.ahead == sum(1 for o in model.held if o > model.next)
        assert b.complete == (model.final == model.next)
    got += b.take()
    assert got == bytes(model.held[i] for i in range(model.next))
    assert b.ahead or b.memory == 0
