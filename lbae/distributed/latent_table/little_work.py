"""Whether a pass over a latent table takes a process about a second, less than starting Ray does."""

# A core reads 2**20 latents, or makes 2**34 multiplications of moment sums, in less than a second.
_MOST_ROWS = 2**20
_MOST_OPERATIONS = 2**34


def is_little_work(rows: int, operations_per_row: int) -> bool:
    """Whether a pass over all rows, with these multiplications per row, is done before Ray would start."""
    return rows <= _MOST_ROWS and rows * operations_per_row <= _MOST_OPERATIONS
