"""Which connections are kept when there are more than the process can hold. Pure: times come in.

A *stranger* is a connection on which no caller has identified itself yet. It is *silent* until its TLS
ClientHello is there; then it costs a handshake and gRPC's share of descriptors. Strangers are bounded for each
address and in all, and their time is limited. Callers are bounded one by one.
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
        settle_s: A stranger that has greeted gives way to newcomers only when it is older than this: an honest
            handshake takes less.
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
        greeted = min(1024, whole // 2)
        return cls(
            silent=silent,
            silent_each=max(1, silent // 8),
            greeted=greeted,
            greeted_each=max(1, greeted // 4),
            whole=whole,
            stranger_s=stranger_s,
        )


@dataclass(frozen=True)
class Admission:
    """Answer to a connection that wants in.

    Attributes:
        admitted: Whether it may go on.
        ended: Connections that must be ended for it.
    """

    admitted: bool
    ended: tuple[int, ...] = ()


@dataclass
class _Stranger:
    address: str
    since: float


@dataclass
class _Address:
    """Strangers of one address by connection, the oldest first."""

    silent: dict[int, None] = field(default_factory=dict)
    greeted: dict[int, None] = field(default_factory=dict)


class ConnectionBounds:
    """Decides who is let in and who gives way. Connections are numbers that the caller chooses.

    >>> bounds = ConnectionBounds(ConnectionLimits(2, 1, 2, 1, 4))
    >>> bounds.arrive(1, "192.0.2.7", now=0.0)
    Admission(admitted=True, ended=())
    >>> bounds.arrive(2, "192.0.2.7", now=1.0)  # one silent connection an address: the older one gives way
    Admission(admitted=True, ended=(1,))

    Attributes:
        lost: How many connections were ended or refused, by reason.
        lost_by_address: The same by network address, for those that lost most.
    """

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self.lost: Counter[str] = Counter()
        self.lost_by_address: Counter[str] = Counter()
        self._silent: dict[int, _Stranger] = {}
        self._greeted: dict[int, _Stranger] = {}
        self._addresses: dict[str, _Address] = defaultdict(_Address)
        self._caller_of: dict[int, str] = {}
        self._callers: dict[str, dict[int, None]] = defaultdict(dict)

    def __len__(self) -> int:
        """Connections that are held."""
        return len(self._silent) + self._held_whole()

    @property
    def strangers(self) -> int:
        """Connections without an identified caller."""
        return len(self._silent) + len(self._greeted)

    def arrive(self, connection: int, address: str, now: float) -> Admission:
        """A connection was accepted. The oldest silent one gives way: an honest client greets at once."""
        where = network_of(address)
        own = self._addresses[where].silent
        ended: tuple[int, ...] = ()
        if len(own) >= self.limits.silent_each:
            ended = (next(iter(own)),)
        elif len(self._silent) >= self.limits.silent:
            ended = (next(iter(self._silent)),)
        for one in ended:
            self._lose(one, "gave way in silence")
        self._silent[connection] = _Stranger(where, now)
        self._addresses[where].silent[connection] = None
        return Admission(admitted=True, ended=ended)

    def greet(self, connection: int, now: float) -> Admission:
        """The connection's ClientHello is there: may it have a handshake?

        The oldest gives way if it had time enough for a handshake of its own. Else the newcomer is refused: of
        many honest clients at once, each that has begun is served.
        """
        stranger = self._silent.pop(connection)
        own = self._addresses[stranger.address]
        del own.silent[connection]
        ended: tuple[int, ...] = ()
        if len(own.greeted) >= self.limits.greeted_each:
            ended = self._old_one(own.greeted, now)
        elif len(self._greeted) >= self.limits.greeted or self._held_whole() >= self.limits.whole:
            ended = self._old_one(self._greeted, now)
        else:
            self._greeted[connection] = _Stranger(stranger.address, now)
            own.greeted[connection] = None
            return Admission(admitted=True)
        if not ended:
            self._count(stranger.address, "refused: too many at once")
            self._forget_address(stranger.address)
            return Admission(admitted=False)
        for one in ended:
            self._lose(one, "gave way unidentified")
        self._greeted[connection] = _Stranger(stranger.address, now)
        self._addresses[stranger.address].greeted[connection] = None
        return Admission(admitted=True, ended=ended)

    def identify(self, connection: int, caller: str) -> tuple[int, ...]:
        """The connection's caller has shown who it is.

        Returns:
            Connections that must be ended: the caller's oldest, where it has too many.
        """
        stranger = self._greeted.pop(connection, None)
        if stranger is None:
            return ()  # known already, or it has ended meanwhile
        del self._addresses[stranger.address].greeted[connection]
        self._forget_address(stranger.address)
        own = self._callers[caller]
        own[connection] = None
        self._caller_of[connection] = caller
        if len(own) <= self.limits.caller:
            return ()
        oldest = next(iter(own))
        self.lost["too many of one caller"] += 1
        self.leave(oldest)
        return (oldest,)

    def leave(self, connection: int) -> None:
        """The connection has ended."""
        for held in (self._silent, self._greeted):
            if (stranger := held.pop(connection, None)) is not None:
                own = self._addresses[stranger.address]
                own.silent.pop(connection, None)
                own.greeted.pop(connection, None)
                self._forget_address(stranger.address)
        if (caller := self._caller_of.pop(connection, None)) is not None:
            del self._callers[caller][connection]
            if not self._callers[caller]:
                del self._callers[caller]

    def overdue(self, now: float) -> list[int]:
        """Strangers whose time is over; they are forgotten, and must be ended."""
        late = []
        for held, reason in ((self._silent, "silent for too long"), (self._greeted, "unidentified for too long")):
            for connection, stranger in held.items():
                if now - stranger.since < self.limits.stranger_s:
                    break  # in the order of their time
                late.append((connection, reason))
        for connection, reason in late:
            self._lose(connection, reason)
        return [connection for connection, _ in late]

    def oldest_silent(self, count: int) -> list[int]:
        """The oldest silent strangers; they are forgotten, and must be ended: descriptors ran out."""
        found = [connection for connection, _ in zip(self._silent, range(count), strict=False)]
        for connection in found:
            self._lose(connection, "gave way: no descriptors")
        return found

    def refuse(self, connection: int, reason: str) -> None:
        """Count a connection that the caller ends by itself."""
        self._lose(connection, reason)

    def _old_one(self, held: dict[int, None] | dict[int, _Stranger], now: float) -> tuple[int, ...]:
        """The oldest of them, if it is older than a handshake takes."""
        oldest = next(iter(held), None)
        if oldest is None or now - self._greeted[oldest].since < self.limits.settle_s:
            return ()
        return (oldest,)

    def _held_whole(self) -> int:
        return len(self._greeted) + len(self._caller_of)

    def _lose(self, connection: int, reason: str) -> None:
        stranger = self._silent.get(connection) or self._greeted.get(connection)
        self._count("" if stranger is None else stranger.address, reason)
        self.leave(connection)

    def _count(self, address: str, reason: str) -> None:
        self.lost[reason] += 1
        if address:
            self.lost_by_address[address] += 1
        if len(self.lost_by_address) > _MOST_ADDRESSES:
            self.lost_by_address = Counter(dict(self.lost_by_address.most_common(_MOST_ADDRESSES // 4)))

    def _forget_address(self, address: str) -> None:
        own = self._addresses[address]
        if not own.silent and not own.greeted:
            del self._addresses[address]


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
