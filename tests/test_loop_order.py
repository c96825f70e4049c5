"""Which sample comes when follows from seed and position alone."""

from __future__ import annotations

import pytest

from univg.loop.order import Order, share_of


def test_each_epoch_shows_each_item_once_in_an_order_of_its_own():
    order = Order(0, "net", 50)
    epochs = [[order.item_at(50 * k + p) for p in range(50)] for k in range(3)]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_any_position_can_be_asked_for_first():
    forward = [Order(3, "net", 7).item_at(p) for p in range(60)]
    order = Order(3, "net", 7)
    assert [order.item_at(p) for p in reversed(range(60))] == forward[::-1]


def test_seed_and_name_decide():
    def seen(*of: object) -> list[int]:
        order = Order(*of, 100)
        return [order.item_at(p) for p in range(20)] + [int(order.rng_at(0).integers(10**6))]

    assert seen(0, "net") == seen(0, "net")
    assert seen(0, "net") != seen(1, "net") and seen(0, "net") != seen(0, "other")


def test_samples_at_two_positions_draw_other_numbers():
    order = Order(0, "net", 1)
    assert order.rng_at(0).random() != order.rng_at(1).random()


@pytest.mark.parametrize("world", [1, 2, 3, 6])
def test_processes_share_a_step_in_order(world):
    for step in (0, 5):
        parts = [share_of(step, 6, rank, world) for rank in range(world)]
        assert [p for part in parts for p in part] == list(range(6 * step, 6 * step + 6))
