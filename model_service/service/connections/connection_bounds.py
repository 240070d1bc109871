"""Which connections are kept when there are more than the process can hold. Pure: times come in.

A *stranger* is a connection on which no caller has identified itself yet. It is *silent* until its TLS
ClientHello is there, then *greeted*: from then on it costs a handshake, and descriptors of gRPC. Strangers
are bounded for each address and in all, and their time is limited. Callers are bounded one by one.

Who gives way to a newcomer? Whoever has been silent for longest, before the ClientHello or after an answer;
whoever has never replied to an answer goes first. An honest client's turn lasts for one round trip, so it is
another one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Final

DESCRIPTORS_OF_ONE: Final = 3
"""Descriptors of a connection behind its ClientHello: towards the client, towards gRPC, and gRPC's own."""
_RESERVE: Final = 512
"""Descriptors kept for registry, files, logs and listening sockets."""
_MOST_ADDRESSES: Final = 1024
"""Addresses whose lost connections are counted one by one."""


@dataclass(frozen=True)
class ConnectionLimits:
    """How many connections may be held.

    Attributes:
        silent: Strangers whose ClientHello is not there yet.
        silent_each: The same of one address.
        greeted: Strangers whose ClientHello is there.
        greeted_each: The same of one address.
        whole: Connections behind their ClientHello, those of callers included.
        caller: Connections of one caller.
        stranger_s: How long a stranger may be silent, and how long it may then take to identify itself.
        settle_s: Whoever has greeted longer ago than this gives way even while it is gRPC's turn: else
            clients that send a byte now and then could stay.
    """

    silent: int
    silent_each: int
    greeted: int
    greeted_each: int
    whole: int
    caller: int = 32
    stranger_s: float = 20.0
    settle_s: float = 2.0

    @classmethod
    def within(cls, descriptors: int, stranger_s: float = 20.0) -> ConnectionLimits:
        """Limits that a process with so many file descriptors can keep."""
        free = descriptors - min(_RESERVE, descriptors // 4)
        silent = min(4096, free // 4)
        whole = (free - silent) // DESCRIPTORS_OF_ONE
        greeted = min(2048, whole // 2)
        return cls(
            silent=silent,
            silent_each=max(1, silent // 8),
            greeted=greeted,
            greeted_each=max(1, greeted // 4),
            whole=whole,
            stranger_s=stranger_s,
        )

    @property
    def summary(self) -> str:
        """The limits in one line, for the log."""
        strangers, each = self.silent + self.greeted, self.silent_each + self.greeted_each
        return (
            f"at most {self.silent + self.whole:,}; of strangers {strangers:,}, from one address {each:,};"
            f" of one caller {self.caller}"
        )


@dataclass(frozen=True)
class Admission:
    """Answer to a connection that wants a handshake.

    Attributes:
        admitted: Whether it may go on.
        ended: Connections that must be ended for it.
    """

    admitted: bool
    ended: tuple[int, ...] = ()


@dataclass
class _Pool:
    """Strangers, of one address or of all; each dictionary has the longest first.

    Attributes:
        silent: When each arrived.
        greeted: When each greeted.
        half_open: Those of ``greeted`` whose turn it is, and who have never replied to an answer.
        idle: Those of ``greeted`` whose turn it is, and who have replied before.
    """

    silent: dict[int, float] = field(default_factory=dict)
    greeted: dict[int, float] = field(default_factory=dict)
    half_open: dict[int, None] = field(default_factory=dict)
    idle: dict[int, None] = field(default_factory=dict)

    def forget(self, connection: int) -> None:
        for held in (self.silent, self.greeted, self.half_open, self.idle):
            held.pop(connection, None)

    def gives_way(self, before: float) -> int | None:
        """Whoever of those that have greeted gives way first; None: nobody.

        Args:
            before: Whoever greeted earlier than this may give way whoseever turn it is.
        """
        if self.half_open or self.idle:
            return next(iter(self.half_open or self.idle))
        oldest = next(iter(self.greeted), None)
        return None if oldest is None or self.greeted[oldest] > before else oldest


class ConnectionBounds:
    """Decides who is let in and who gives way. Connections are numbers that the caller chooses.

    >>> bounds = ConnectionBounds(ConnectionLimits(2, 1, 2, 1, 4))
    >>> bounds.arrive(1, "192.0.2.7", now=0.0)
    ()
    >>> bounds.arrive(2, "192.0.2.7", now=1.0)  # one silent connection an address: the older one gives way
    (1,)

    Attributes:
        lost: How many connections were ended or refused, by reason.
        lost_by_address: The same by network address, for those that lost most.
    """

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self.lost: Counter[str] = Counter()
        self.lost_by_address: Counter[str] = Counter()
        self._all = _Pool()
        self._of: dict[str, _Pool] = defaultdict(_Pool)
        self._address: dict[int, str] = {}
        self._replied: set[int] = set()
        self._caller: dict[int, str] = {}
        self._callers: dict[str, dict[int, None]] = defaultdict(dict)

    def __len__(self) -> int:
        """Connections that are held."""
        return self.strangers + len(self._caller)

    @property
    def strangers(self) -> int:
        """Connections without an identified caller."""
        return len(self._address)

    def arrive(self, connection: int, address: str, now: float) -> tuple[int, ...]:
        """A connection was accepted; returns those that must be ended for it."""
        where = network_of(address)
        ended: tuple[int, ...] = ()
        if len(self._of[where].silent) >= self.limits.silent_each:
            ended = (next(iter(self._of[where].silent)),)
        elif len(self._all.silent) >= self.limits.silent:
            ended = (next(iter(self._all.silent)),)
        for one in ended:
            self.refuse(one, "gave way in silence")
        self._address[connection] = where
        for pool in (self._all, self._of[where]):
            pool.silent[connection] = now
        return ended

    def greet(self, connection: int, now: float) -> Admission:
        """The connection's ClientHello is there: may it have a handshake?

        It is refused while gRPC works for all others: of many honest clients at once, those go on.
        """
        own = self._of[self._address[connection]]
        before = now - self.limits.settle_s
        ended: tuple[int, ...] = ()
        full = None
        if len(own.greeted) >= self.limits.greeted_each:
            full = own
        elif len(self._all.greeted) >= self.limits.greeted or self._served() >= self.limits.whole:
            full = self._all
        if full is not None:
            if (gives_way := full.gives_way(before)) is None:
                self.refuse(connection, "refused: too many handshakes")
                return Admission(admitted=False)
            ended = (gives_way,)
            self.refuse(gives_way, "gave way unidentified")
        own = self._of[self._address[connection]]
        for pool in (self._all, own):
            del pool.silent[connection]
            pool.greeted[connection] = now
        return Admission(admitted=True, ended=ended)

    def turn(self, connection: int, *, answered: bool) -> None:
        """Bytes went to a client that has greeted (``answered``), or came from it."""
        if connection not in self._all.greeted:
            return
        if not answered and (connection in self._all.half_open or connection in self._all.idle):
            self._replied.add(connection)
        for pool in (self._all, self._of[self._address[connection]]):
            pool.half_open.pop(connection, None)
            pool.idle.pop(connection, None)
            if answered:
                (pool.idle if connection in self._replied else pool.half_open)[connection] = None

    def identify(self, connection: int, caller: str) -> tuple[int, ...]:
        """The connection's caller has shown who it is.

        Returns:
            Connections that must be ended: the caller's oldest, where it has too many.
        """
        if connection not in self._all.greeted:
            return ()  # known already, or it has ended meanwhile
        self.leave(connection)
        own = self._callers[caller]
        own[connection] = None
        self._caller[connection] = caller
        if len(own) <= self.limits.caller:
            return ()
        oldest = next(iter(own))
        self.refuse(oldest, "too many of one caller")
        return (oldest,)

    def leave(self, connection: int) -> None:
        """The connection has ended."""
        self._replied.discard(connection)
        if (address := self._address.pop(connection, None)) is not None:
            for pool in (self._all, self._of[address]):
                pool.forget(connection)
            if not self._of[address].silent and not self._of[address].greeted:
                del self._of[address]
        if (caller := self._caller.pop(connection, None)) is not None:
            del self._callers[caller][connection]
            if not self._callers[caller]:
                del self._callers[caller]

    def overdue(self, now: float) -> list[int]:
        """Strangers whose time is over; they are forgotten, and must be ended."""
        late = []
        for held, reason in (
            (self._all.silent, "silent for too long"),
            (self._all.greeted, "unidentified for too long"),
        ):
            for connection, since in held.items():
                if now - since < self.limits.stranger_s:
                    break
                late.append((connection, reason))
        for connection, reason in late:
            self.refuse(connection, reason)
        return [connection for connection, _ in late]

    def oldest_silent(self, count: int) -> list[int]:
        """The oldest silent strangers; they are forgotten, and must be ended: descriptors ran out."""
        found = [connection for connection, _ in zip(self._all.silent, range(count), strict=False)]
        for connection in found:
            self.refuse(connection, "gave way: no descriptors")
        return found

    def refuse(self, connection: int, reason: str) -> None:
        """Forget a connection that is ended for a reason, and count it."""
        self.lost[reason] += 1
        if address := self._address.get(connection):
            self.lost_by_address[address] += 1
            if len(self.lost_by_address) > _MOST_ADDRESSES:
                most = self.lost_by_address.most_common(_MOST_ADDRESSES // 4)
                self.lost_by_address = Counter(dict(most))
        self.leave(connection)

    def _served(self) -> int:
        return len(self._all.greeted) + len(self._caller)


def network_of(address: str) -> str:
    """What counts as one address: an IPv4 address, or the /64 of an IPv6 address, which one host may own."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ip_network((parsed, 64), strict=False))
    return str(parsed)
