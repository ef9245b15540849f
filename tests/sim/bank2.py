"""The bank of `bank.py`, later: it keeps its accounts with a currency, and takes one message more."""

import titan_overlay as titan


class Deposit(titan.Message[int], frozen=True, namespace="bank"):
    account: str
    pence: int


class Account(titan.Message[None], frozen=True, namespace="bank"):
    pence: int
    currency: str = "GBP"


class Close(titan.Message[int], frozen=True, namespace="bank"):
    account: str


@titan.mutable("bank/*", policy=titan.Policy(faults=1), version=2)
class Bank:
    accounts: dict[str, Account] = {}

    @classmethod
    def migrate(cls, version: int, fields: dict) -> dict:
        return {"accounts": {name: {"pence": pence, "currency": "GBP"} for name, pence in fields["balances"].items()}}

    def deposit(self, m: Deposit) -> int:
        account = self.accounts.get(m.account, Account(0))
        self.accounts[m.account] = Account(account.pence + m.pence, account.currency)
        return self.accounts[m.account].pence

    def close(self, m: Close) -> int:
        return self.accounts.pop(m.account).pence

    @titan.readonly
    def balance(self, account: str) -> str:
        held = self.accounts[account]
        return f"{held.pence} {held.currency}"
