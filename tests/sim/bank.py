"""A mutable object for tests, in a file of its own, because objects travel as the source of their file."""

from collections.abc import Iterator

import titan_overlay as titan


class Withdraw(titan.Message[int], frozen=True, namespace="bank"):
    account: str
    pence: int


class Pay(titan.Message[None], frozen=True, namespace="bank"):
    bank: str
    account: str
    pence: int
    after: float = 0.0


class Deposit(titan.Message[int], frozen=True, namespace="bank"):
    account: str
    pence: int


class Order(titan.Message[None], frozen=True, namespace="bank"):
    """Another bank is to pay."""

    bank: str
    payment: Pay


@titan.mutable("bank/*", policy=titan.Policy(faults=1))
class Bank:
    balances: dict[str, int] = {"rent": 1000}

    def withdraw(self, m: Withdraw) -> int:
        self.balances[m.account] = self.balances.get(m.account, 0) - m.pence
        if self.balances[m.account] < 0:
            raise ValueError("no money")
        return self.balances[m.account]

    def deposit(self, m: Deposit) -> int:
        if m.pence > 10**9:
            raise ValueError("nobody is that rich")
        self.balances[m.account] = self.balances.get(m.account, 0) + m.pence
        return self.balances[m.account]

    def pay(self, m: Pay, ctx: titan.Context) -> None:
        if m.after:
            ctx.schedule(m.after, Pay(m.bank, m.account, m.pence))
            return
        self.balances[m.account] -= m.pence
        if m.bank:
            ctx.send_later(m.bank, Deposit(m.account, m.pence))

    def order(self, m: Order, ctx: titan.Context) -> None:
        ctx.send_later(m.bank, m.payment)

    @titan.readonly
    def balance(self, account: str) -> int:
        return self.balances.get(account, 0)


@titan.mutable("ledger/*", policy=titan.Policy(faults=1))
class Ledger:
    """Whose snapshots fail."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, line: str) -> int:
        self.lines.append(line)
        return len(self.lines)

    @titan.readonly
    def last(self, _: bool) -> str:
        return self.lines[-1]

    def snapshot(self) -> Iterator[bytes]:
        if self.lines:
            raise RuntimeError("its author has forgotten something")
        yield b""

    def restore(self, chunk: bytes) -> None:
        raise RuntimeError
