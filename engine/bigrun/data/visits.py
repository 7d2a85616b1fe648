"""How often each group of samples is visited, so that no batch has more of one than must be."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["most_of_a_group", "shares", "visits_per_round"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def most_of_a_group(groups: int, batch: int) -> int:
    """Samples of one group in a batch, at most: one, where there are as many groups as samples in a batch."""
    return -(-batch // groups)


def shares(weights: Floats, batch: int) -> Floats:
    """How many samples of each group a batch has on average: by weight, but no more than may be.

    What a group may not have goes to the others, by weight.

    Args:
        weights: (groups,) above 0.

    Returns:
        (groups,), of sum `batch`.
    """
    most = float(most_of_a_group(len(weights), batch))
    full = np.zeros(len(weights), dtype=np.bool_)
    while True:
        rest = batch - most * full.sum()
        if rest <= 0 or full.all():
            return np.where(full, batch / full.sum(), 0.0)
        found = np.where(full, most, weights * (rest / weights[~full].sum()))
        more = found > most * (1 + 1e-12)
        if not more.any():
            return np.minimum(found, most)
        full |= more


def visits_per_round(weights: Floats, batch: int, about: int) -> Ints:
    """Whole numbers of visits, of a sum that is a multiple of `batch`: by largest remainders, at least one each.

    Args:
        weights: (groups,) above 0.
        about: visits that a round should have; the more, the nearer are the numbers to the weights.

    Returns:
        (groups,) int64. With R = sum / batch no number is above R * `most_of_a_group`.
    """
    rounds = max(1, -(-max(about, len(weights)) // batch))
    wanted = shares(weights, batch) * rounds
    most = rounds * most_of_a_group(len(weights), batch)
    visits = np.clip(np.floor(wanted + 1e-9).astype(np.int64), 1, most)
    missing = rounds * batch - int(visits.sum())
    while missing:  # nearly always once: each turn changes as many groups as it can by one
        sign = 1 if missing > 0 else -1
        allowed = np.flatnonzero(visits < most if sign > 0 else visits > 1)
        by_need = allowed[np.argsort(-sign * (wanted - visits)[allowed], kind="stable")][: abs(missing)]
        visits[by_need] += sign
        missing -= sign * len(by_need)
    return visits
