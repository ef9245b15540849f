"""What `titan describe node:<id>` says of a peer's conduct."""

from titan_overlay.cli.conduct import conduct
from titan_overlay.pool.orders import Misdeed, Seen


def seen(*misdeeds: Misdeed, latency: float | None = None, avoided_for: float = 0.0) -> Seen:
    return Seen("ab" * 32, latency, 1.0, avoided_for, misdeeds)


def test_of_a_good_peer_only_its_speed_is_told() -> None:
    assert conduct(seen(latency=0.0123)) == "answers in 12 ms; nothing wrong in the last hour"
    assert conduct(seen(Misdeed(7200.0, "silence", "calc"))) == "nothing wrong in the last hour"


def test_what_went_wrong_is_counted_and_the_latest_of_it_explained() -> None:
    old = Misdeed(5000.0, "silence", "calc: no answer in time")
    wrong = [Misdeed(3000.0, "wrong answer", "chunk 3"), Misdeed(720.0, "wrong answer", "chunk 4")]
    broken = Misdeed(1000.0, "broken promise", "calc")
    assert conduct(seen(old, wrong[0], broken, wrong[1], avoided_for=5400.0)) == (
        "2 x wrong answer, 1 x broken promise in the last hour, latest 12m ago: chunk 4; "
        "asked after all others for 1.5h from now"
    )
