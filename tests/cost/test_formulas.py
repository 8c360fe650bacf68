"""FLOP formulas on sizes small enough to add up by hand."""

from harness.cost.formulas import product_flops, randomized_svd_flops, svd_flops, thin_qr_flops
from harness.cost.meter import Meter


def test_svd_is_r_svd_of_the_taller_side() -> None:
    # 6 * 5 * 3^2 + 20 * 3^3
    assert svd_flops(5, 3) == svd_flops(3, 5) == 270 + 540


def test_qr() -> None:
    # 4 * 5 * 9 - 4 * 27 / 3
    assert thin_qr_flops(5, 3) == 180 - 36


def test_product() -> None:
    assert product_flops(2, 3, 4) == 48


def test_randomized_svd_adds_up() -> None:
    m, n, k, q = 50, 40, 5, 2
    products = 6 * (2 * m * n * k)  # A Omega; two times A^T Q and A Q; Q^T A
    qrs = 3 * thin_qr_flops(m, k) + 2 * thin_qr_flops(n, k)
    assert randomized_svd_flops(m, n, sampled=k, num_powers=q) == (
        products + qrs + svd_flops(n, k) + product_flops(m, k, k)
    )


def test_it_is_cheaper_than_the_exact_one_where_it_is_used() -> None:
    assert 50 * randomized_svd_flops(4096, 4096, sampled=48, num_powers=4) < svd_flops(4096, 4096)


def test_booked_flops_join_those_that_were_counted() -> None:
    meter = Meter()
    meter.book(7)
    meter.book(5)
    assert meter.take() == 12
    assert meter.take() == 0
