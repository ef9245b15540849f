"""DAGs that are written as Python, and what they hand on."""

from typing import Any, cast

import pytest

import titan_overlay as titan
from tests.net.films import film
from titan_objects.dag import client, dag
from titan_objects.dag.definition import Definition


async def test_what_submit_takes_and_parameters_go_their_own_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    submitted: dict[str, Any] = {}

    async def submit(pool: titan.Pool, definition: Definition, **options: Any) -> None:
        submitted.update(options, definition=definition)

    monkeypatch.setattr(client, "submit", submit)
    await film.submit(cast(titan.Pool, None), n=2, once="tonight", workers=["key"])
    assert (submitted["once"], submitted["workers"], submitted["code"]) == ("tonight", ["key"], film.source)
    assert submitted["definition"] == film.definition(n=2)


def test_a_parameter_of_a_dag_that_submit_would_take_is_refused() -> None:
    with pytest.raises(titan.ConfigError, match="'once' is an argument of submit"):
        dag(lambda once: None)
