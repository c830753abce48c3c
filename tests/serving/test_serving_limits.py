from __future__ import annotations

import pytest

from bcfusion.serving.limits import CLIENTS, Bucket, Limits, Rates, address_of, is_local


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_holds_its_most_and_fills_up_at_its_rate() -> None:
    clock = Clock()
    bucket = Bucket(10, 5, clock)
    assert [bucket.take() for _ in range(6)] == [True] * 5 + [False]
    clock.now = 0.25  # 2.5 more
    assert [bucket.take() for _ in range(3)] == [True, True, False]
    clock.now = 1000
    assert [bucket.take() for _ in range(6)] == [True] * 5 + [False]


def test_a_client_that_asks_too_often_takes_nothing_from_another() -> None:
    rates = Rates(2, Clock())
    assert sum(rates.allow("10.0.0.1") for _ in range(100)) == 10  # a burst
    assert rates.allow("10.0.0.2")


def test_as_many_addresses_as_there_are_do_not_fill_the_memory() -> None:
    rates = Rates(2, Clock())
    for number in range(CLIENTS + 1000):
        rates.allow(str(number))
    assert len(rates._buckets) == CLIENTS


def test_a_page_is_told_the_bounds_that_concern_it() -> None:
    assert Limits(max_bytes=5, max_jobs=2).plain() == {
        "max_seconds": 600.0,
        "max_bytes": 5,
        "max_streams": 16,
        "max_jobs": 2,
        "keep_minutes": 30.0,
    }


@pytest.mark.parametrize("most", [1, 2, 7, 16])
def test_one_address_of_another_machine_has_a_part_of_the_places_and_this_machine_all(most: int) -> None:
    limits = Limits(max_streams=most, max_jobs=most)
    for there in (limits.streams_of("10.0.0.1"), limits.jobs_of("10.0.0.1")):
        assert 1 <= there <= most
        assert most / 2 <= there <= most / 2 + 0.5
    assert limits.connections_of("10.0.0.1") == limits.connections // 4
    for here in ("127.0.0.1", "::1"):
        assert (limits.streams_of(here), limits.jobs_of(here)) == (most, most)
        assert limits.connections_of(here) == limits.connections


@pytest.mark.parametrize(
    ("text", "client"),
    [
        ("127.0.0.1", "127.0.0.1"),
        (" 10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("::1", "::1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("[2001:db8::2]", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unknown", None),
        ("", None),
    ],
)
def test_a_client_is_an_address_or_a_network_of_ipv6(text: str, client: str | None) -> None:
    assert address_of(text) == client
    assert is_local(client or "") == (text in ("127.0.0.1", "::1"))
