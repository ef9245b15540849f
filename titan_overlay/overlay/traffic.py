"""Accounts: bytes and calls by purpose."""

ROUTING, LOOKUP, ADVERTISE, PROBE, OTHER, HANDSHAKE = range(6)
"""What traffic is for. All but the last travel in the flags of a request, so both ends book it alike."""

PURPOSES = ("routing", "lookup", "advertise", "probe", "other", "handshake")

UDP_HEADER_BYTES = 28
"""IPv4 and UDP header; counted with every datagram."""


class Traffic:
    """Bytes (UDP payload and header) sent and received, and calls begun, by purpose; and odd events by name."""

    __slots__ = ("calls", "events", "received", "sent")

    def __init__(self) -> None:
        self.sent = [0] * 16
        self.received = [0] * 16
        self.calls = [0] * 16
        self.events: dict[str, int] = {}

    def count(self, event: str) -> None:
        """One more of these."""
        self.events[event] = self.events.get(event, 0) + 1

    def report(self) -> dict[str, int]:
        """`<purpose>_bytes_sent`, `<purpose>_bytes_received`, `<purpose>_rpcs` for each purpose, and the events."""
        report: dict[str, int] = {}
        for number, purpose in enumerate(PURPOSES):
            report[f"{purpose}_bytes_sent"] = self.sent[number]
            report[f"{purpose}_bytes_received"] = self.received[number]
            report[f"{purpose}_rpcs"] = self.calls[number]
        report.update(self.events)
        return report
