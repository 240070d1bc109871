"""Decodes requests so that one that is no message reaches its handler as a refusal.

gRPC would answer ``UNKNOWN``, without details, and write a traceback for each.
"""

from __future__ import annotations

from collections.abc import Callable

from google.protobuf.message import DecodeError, Message

from model_service.service.refusals import BadFieldError


class UndecodableRequest:
    """Stands for a request whose bytes are not a message of its type."""

    def __init__(self, type_name: str) -> None:
        self.error = BadFieldError("request", f"these bytes are no {type_name}")


def decoder(kind: type[Message]) -> Callable[[bytes], Message | UndecodableRequest]:
    """The function that gRPC uses to decode requests of that type; it never raises."""

    def decode(data: bytes) -> Message | UndecodableRequest:
        try:
            return kind.FromString(data)
        except (DecodeError, RecursionError, ValueError):  # ValueError: text that is no UTF-8
            return UndecodableRequest(kind.DESCRIPTOR.full_name)

    return decode
