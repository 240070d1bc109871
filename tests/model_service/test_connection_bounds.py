"""Laws of connections: strangers give way to each other, never callers to strangers, and all of it fits."""

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_service.service.connections import client_hello
from model_service.service.connections.connection_bounds import (
    DESCRIPTORS_OF_ONE,
    ConnectionBounds,
    ConnectionLimits,
    network_of,
)

LIMITS = ConnectionLimits(
    silent=8, silent_each=4, greeted=6, greeted_each=3, whole=9, caller=2, stranger_s=20.0, settle_s=2.0
)
A, B = "192.0.2.1", "198.51.100.1"


class Held:
    """What the relay holds: it obeys the bounds, and knows which connection is whose."""

    def __init__(self, limits=LIMITS):
        self.bounds, self.now, self.made = ConnectionBounds(limits), 0.0, 0
        self.silent, self.greeted, self.callers = {}, {}, {}

    def arrive(self, address):
        self.made += 1
        self._drop(self.bounds.arrive(self.made, address, self.now))
        self.silent[self.made] = address
        return self.made

    def greet(self, connection):
        address = self.silent.pop(connection)
        admission = self.bounds.greet(connection, self.now)
        self._drop(admission.ended)
        if admission.admitted:
            self.greeted[connection] = address
        return admission.admitted

    def identify(self, connection, caller):
        ended = self.bounds.identify(connection, caller)
        self.callers[connection] = caller
        self.greeted.pop(connection)
        assert all(self.callers[one] == caller for one in ended), "only a caller's own connections end for it"
        self._drop(ended)

    def leave(self, connection):
        self._forget(connection)
        self.bounds.leave(connection)

    def wait(self, seconds):
        self.now += seconds
        self._drop(self.bounds.overdue(self.now))

    def alive(self, connection):
        return any(connection in held for held in (self.silent, self.greeted, self.callers))

    def _drop(self, ended):
        for one in ended:
            assert self.alive(one), "what is ended was held"
            self._forget(one)

    def _forget(self, connection):
        for held in (self.silent, self.greeted, self.callers):
            held.pop(connection, None)


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(
            [*["arrive"] * 6, *["greet"] * 4, "answer", "speak", "identify", "identify", "leave", "wait"]
        ),
        st.integers(0, 999),
    ),
    max_size=200,
)


@given(OPERATIONS)
def test_whatever_happens_the_bounds_hold_and_nothing_is_forgotten(operations):
    held = Held()
    for what, n in operations:
        pick = {
            "greet": held.silent, "answer": held.greeted, "speak": held.greeted, "identify": held.greeted,
            "leave": {**held.silent, **held.greeted, **held.callers},
        }.get(what, {0: 0})  # fmt: skip
        if not pick:
            continue
        one = sorted(pick)[n % len(pick)]
        before = set(held.callers)
        if what == "arrive":
            held.arrive((A, B, "203.0.113.9")[n % 3])
        elif what == "greet":
            held.greet(one)
        elif what in ("answer", "speak"):
            held.bounds.turn(one, answered=what == "answer")
        elif what == "identify":
            held.identify(one, f"caller-{n % 4}")
        elif what == "leave":
            held.leave(one)
        else:
            held.wait(n / 100)
        if what not in ("identify", "leave"):
            assert before == set(held.callers), "no caller gives way to a stranger"
        assert len(held.silent) <= LIMITS.silent
        assert len(held.greeted) <= LIMITS.greeted
        assert len(held.greeted) + len(held.callers) <= LIMITS.whole
        for address in (A, B):
            assert list(held.silent.values()).count(address) <= LIMITS.silent_each
            assert list(held.greeted.values()).count(address) <= LIMITS.greeted_each
        assert len(held.bounds) == len(held.silent) + len(held.greeted) + len(held.callers)


@given(st.integers(64, 2**20))
def test_all_connections_fit_into_the_descriptors(descriptors):
    limits = ConnectionLimits.within(descriptors)
    assert limits.silent + DESCRIPTORS_OF_ONE * limits.whole <= descriptors - min(512, descriptors // 4)
    assert limits.silent_each <= limits.silent
    assert limits.greeted_each <= limits.greeted <= limits.whole


def test_no_more_are_held_than_each_bound_says():
    held = Held()
    for number in range(40):
        for address in (A, B, f"203.0.113.{number}"):
            held.arrive(address)
            of = list(held.silent.values())
            assert of.count(address) <= LIMITS.silent_each
            assert len(of) <= LIMITS.silent
    for number in range(LIMITS.whole + 3):  # callers fill what strangers may not have
        one = held.arrive(f"198.18.0.{number}")
        if held.greet(one):
            held.identify(one, f"caller-{number}")
    assert len(held.callers) == LIMITS.whole
    assert not held.greet(held.arrive(A))


def test_a_crowd_of_one_address_takes_nothing_from_another():
    held = Held()
    others = held.arrive(B)
    for _ in range(100):
        held.arrive(A)
    assert held.alive(others)
    assert held.greet(others)
    for _ in range(100):
        crowd = held.arrive(A)
        if held.greet(crowd):
            held.bounds.turn(crowd, answered=True)
    assert held.alive(others)


@pytest.mark.parametrize("crowd", ["silent", "half open"])
def test_an_honest_client_gets_in_beside_a_crowd_of_its_own_address(crowd):
    held = Held()

    def more():
        one = held.arrive(A)
        if crowd == "half open" and held.greet(one):
            held.bounds.turn(one, answered=True)

    for _ in range(50):
        more()
    honest = held.arrive(A)
    more()
    assert held.greet(honest)
    more()
    held.bounds.turn(honest, answered=True)  # it answers after a round trip, within which two more come
    more()
    more()
    held.bounds.turn(honest, answered=False)
    for _ in range(50):
        more()
    held.identify(honest, "m-1")
    held.wait(3600)
    assert held.alive(honest)


def test_whoever_has_replied_stays_while_others_never_did():
    held = Held()
    honest = held.arrive(A)
    held.greet(honest)
    for answered in (True, False, True):  # its handshake is over; its first call is on the way
        held.bounds.turn(honest, answered=answered)
    for _ in range(50):
        one = held.arrive(A)
        if held.greet(one):
            held.bounds.turn(one, answered=True)
    assert held.alive(honest)


def test_of_many_honest_clients_at_once_those_go_on_that_have_begun():
    held = Held()
    served = [held.arrive(A) for _ in range(LIMITS.greeted_each)]
    assert all(held.greet(one) for one in served)
    late = held.arrive(A)
    assert not held.greet(late)
    assert all(held.alive(one) for one in served)
    assert held.bounds.lost == {"refused: too many handshakes": 1}


def test_whoever_sends_a_byte_now_and_then_gives_way_all_the_same():
    held = Held()
    slow = [held.arrive(A) for _ in range(LIMITS.greeted_each)]
    for one in slow:
        held.greet(one)
        held.bounds.turn(one, answered=True)
        held.bounds.turn(one, answered=False)
    held.wait(LIMITS.settle_s + 0.1)
    assert held.greet(held.arrive(A))
    assert not held.alive(slow[0])


def test_a_stranger_has_its_time_and_no_more():
    held = Held()
    silent, greeted, known = (held.arrive(a) for a in (A, B, B))
    held.greet(greeted)
    held.greet(known)
    held.identify(known, "m-1")
    held.wait(LIMITS.stranger_s - 0.1)
    assert held.alive(silent)
    assert held.alive(greeted)
    held.wait(0.2)
    assert [held.alive(one) for one in (silent, greeted, known)] == [False, False, True]
    assert held.bounds.lost_by_address == {A: 1, B: 1}


def test_a_callers_newest_connections_stay():
    held, made = Held(), []
    for _ in range(4):
        made.append(held.arrive(A))
        held.greet(made[-1])
        held.identify(made[-1], "m-1")
    assert [held.alive(one) for one in made] == [False, False, True, True]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("", "192.0.2.1", False),
    ],
)
def test_an_address_is_what_one_host_can_have(one, other, same):
    assert (network_of(one) == network_of(other)) is same


def hello():
    context, sent = ssl.create_default_context(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname="localhost").do_handshake()
    return sent.read()


def test_a_client_hello_is_whole_with_its_last_byte():
    whole = hello()
    assert [client_hello.is_whole(whole[:n]) for n in range(len(whole) + 1)] == [False] * len(whole) + [True]
    assert client_hello.is_whole(whole + b"more")


@given(st.binary(max_size=64))
def test_other_bytes_are_refused_as_soon_as_they_differ(data):
    start = b"\x16\x03"
    if data[:2] == start[: len(data)]:
        data = b"\x15" + data
    with pytest.raises(ValueError, match="ClientHello"):
        client_hello.is_whole(data)


@pytest.mark.parametrize(
    "data", [b"\x16\x02", b"\x16\x03\x01\x00\x00", b"\x16\x03\x01\xff\xff", b"\x16\x03\x01\x00\x10\x02"]
)
def test_a_record_that_is_no_client_hello_is_refused(data):
    with pytest.raises(ValueError, match="ClientHello"):
        client_hello.is_whole(data)
