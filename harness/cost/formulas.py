"""FLOPs of what torch's counter does not see, by formula. Multiply and add count one each.

Golub, Van Loan, "Matrix Computations", 4th edition 2013, figure 8.6.1 (singular values) and section 5.2 (QR).
Halko, Martinsson, Tropp, "Finding structure with randomness", SIAM Review 2011, section 5.1.
"""


def svd_flops(rows: int, columns: int) -> int:
    """Thin SVD (U1, S, V) of a dense matrix by R-SVD: 6 m n^2 + 20 n^3 with m >= n (Golub and Van Loan)."""
    m, n = max(rows, columns), min(rows, columns)
    return 6 * m * n**2 + 20 * n**3


def thin_qr_flops(rows: int, columns: int) -> int:
    """Householder QR with thin Q, 4 m n^2 - 4/3 n^3 for m >= n (Golub and Van Loan, 5.2), rounded."""
    return 4 * rows * columns**2 - 4 * columns**3 // 3


def randomized_svd_flops(rows: int, columns: int, *, sampled: int, num_powers: int) -> int:
    """Subspace iteration for `sampled` directions, with a QR after every product.

    2 q + 2 products with the matrix, 2 q + 1 QRs, the SVD of the [sampled, columns] rest, one product back.
    """
    m, n, k, q = rows, columns, sampled, num_powers
    products = (2 * q + 2) * 2 * m * n * k + 2 * m * k**2
    return products + (q + 1) * thin_qr_flops(m, k) + q * thin_qr_flops(n, k) + svd_flops(n, k)


def product_flops(rows: int, inner: int, columns: int) -> int:
    """[rows, inner] x [inner, columns]."""
    return 2 * rows * inner * columns
