"""SendBuf against a naive model: a bytearray and one state for each byte."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from stoq.core.containers import SendBuffer

UNSENT, FLYING, LOST, ACKED = "unsent", "flying", "lost", "acked"


class SendMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.b = SendBuffer()
        self.text = bytearray()
        self.state: list[str] = []
        self.packets: list[tuple[int, int, bool]] = []  # sent and not yet reported
        self.fin = self.fin_sent = self.fin_lost = self.fin_acked = False
        self.owners = 0
        self.released = 0

    @rule(size=st.sampled_from([1, 3, 60, 700, 4096, 5000]), keep=st.booleans())
    @precondition(lambda self: not self.fin)
    def write(self, size: int, keep: bool) -> None:
        data = bytes((len(self.text) * 31 + i * 7) & 0xFF for i in range(size))
        self.b.write(data, keep=keep)
        self.text += data
        self.state += [UNSENT] * size
        self.owners += keep

    @rule()
    def finish(self) -> None:
        self.b.finish()
        self.fin = True

    def expected(self, room: int, limit: int) -> tuple[int, int, bool, bool] | None:
        fin_due = self.fin and not self.fin_acked and (self.fin_lost or not self.fin_sent)
        end = len(self.state)
        if room:
            want = LOST if LOST in self.state else UNSENT
            if want in self.state:
                start = self.state.index(want)
                stop = start
                top = end if want == LOST else min(end, limit)
                while stop < top and stop - start < room and self.state[stop] == want:
                    stop += 1
                if stop > start:
                    return start, stop - start, fin_due and stop == end, want == UNSENT
        if fin_due and UNSENT not in self.state:
            return end, 0, True, not self.fin_sent
        return None

    @rule(room=st.sampled_from([0, 1, 50, 1400, 10_000]), held_back=st.sampled_from([0, 0, 1, 900]), part=st.booleans())
    def send(self, room: int, held_back: int, part: bool) -> None:
        limit = max(0, len(self.text) - held_back)
        due = self.b.peek(room, limit)
        assert due == self.expected(room, limit)
        if due is None:
            return
        offset, length, fin, _ = due
        if part and length > 1:
            length //= 2
            fin = False
        assert self.b.copy(offset, length) == self.text[offset : offset + length]
        run = self.b.run(offset, length)
        assert run == self.text[offset : offset + len(run)]
        self.b.sent(offset, length, fin)
        for i in range(offset, offset + length):
            self.state[i] = FLYING
        if fin:
            self.fin_sent, self.fin_lost = True, False
        self.packets.append((offset, length, fin))

    @rule(pick=st.integers(0, 10**6), forget=st.booleans())
    @precondition(lambda self: self.packets)
    def acked(self, pick: int, forget: bool) -> None:
        i = pick % len(self.packets)
        offset, length, fin = self.packets[i]
        if forget:  # otherwise the same packet may be reported again: lost late, or acknowledged twice
            del self.packets[i]
        self.b.acked(offset, length, fin)
        for n in range(offset, offset + length):
            self.state[n] = ACKED
        if fin:
            self.fin_acked, self.fin_lost = True, False

    @rule(pick=st.integers(0, 10**6), forget=st.booleans())
    @precondition(lambda self: self.packets)
    def lost(self, pick: int, forget: bool) -> None:
        i = pick % len(self.packets)
        offset, length, fin = self.packets[i]
        if forget:
            del self.packets[i]
        self.b.lost(offset, length, fin)
        for n in range(offset, offset + length):
            if self.state[n] == FLYING:
                self.state[n] = LOST
        if fin and not self.fin_acked:
            self.fin_lost = True

    @rule()
    def drain(self) -> None:
        self.released += self.b.drain()

    @invariant()
    def consistent(self) -> None:
        base = next((i for i, s in enumerate(self.state) if s != ACKED), len(self.state))
        assert self.b.valid
        assert self.b.base == base
        assert self.b.end == len(self.text)
        assert self.b.complete == (self.fin_acked and base == len(self.text))

    def teardown(self) -> None:
        self.b.clear()
        self.released += self.b.drain()
        assert self.released == self.owners
        assert self.b.memory == 0


TestSendBuf = SendMachine.TestCase
TestSendBuf.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
