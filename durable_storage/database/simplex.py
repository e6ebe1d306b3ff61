"""Linear programming, as small as the metering needs it.

Minimise ``cost · x`` over ``x >= 0`` with ``rows · x = right sides``: the two-phase simplex method
on a dense table, with Bland's rule, so that it ends. Problems here have some dozens of variables
with small whole coefficients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

__all__ = ["minimise"]

_EPSILON: Final = 1e-7
_PIVOTS_MAX: Final = 2_000


def minimise(
    cost: Sequence[float], equations: Sequence[tuple[Mapping[int, float], float]]
) -> list[float] | None:
    """Return the cheapest solution, ``None`` when there is none.

    Args:
        cost: of each variable, not negative.
        equations: coefficients by variable, and the right side.
    """
    variables = len(cost)
    table: list[list[float]] = []
    for coefficients, right in equations:
        sign = -1.0 if right < 0 else 1.0
        row = [0.0] * (variables + 1)
        for variable, coefficient in coefficients.items():
            row[variable] = sign * coefficient
        row[-1] = sign * right
        table.append(row)
    # Phase 1: an artificial variable per row, which is never stored because it never returns.
    basis = [-1] * len(table)
    goal = [-sum(row[column] for row in table) for column in range(variables + 1)]
    if not _improve(table, basis, goal) or goal[-1] < -_EPSILON * 10:
        return None
    _drive_out(table, basis, variables)
    # Phase 2: the cost, expressed in what is not in the basis.
    goal = [*cost, 0.0]
    for row, variable in zip(table, basis, strict=True):
        if variable >= 0 and goal[variable]:
            factor = goal[variable]
            goal = [a - factor * b for a, b in zip(goal, row, strict=True)]
    if not _improve(table, basis, goal):
        return None
    solution = [0.0] * variables
    for row, variable in zip(table, basis, strict=True):
        if variable >= 0:
            solution[variable] = row[-1]
    return solution


def _improve(table: list[list[float]], basis: list[int], goal: list[float]) -> bool:
    for _ in range(_PIVOTS_MAX):
        column = next((j for j in range(len(goal) - 1) if goal[j] < -_EPSILON), None)
        if column is None:
            return True
        candidates = [
            (row[-1] / row[column], basis[i], i)
            for i, row in enumerate(table)
            if row[column] > _EPSILON
        ]
        if not candidates:
            return False
        _pivot(table, basis, goal, min(candidates)[2], column)
    return False


def _drive_out(table: list[list[float]], basis: list[int], variables: int) -> None:
    """Replace the artificial variables that are left, all of them zero."""
    for i, row in enumerate(table):
        if basis[i] < 0:
            column = next((j for j in range(variables) if abs(row[j]) > _EPSILON), None)
            if column is not None:
                _pivot(table, basis, None, i, column)


def _pivot(
    table: list[list[float]], basis: list[int], goal: list[float] | None, i: int, column: int
) -> None:
    factor = table[i][column]
    pivot = table[i] = [value / factor for value in table[i]]
    basis[i] = column
    for k, row in enumerate(table):
        if k != i and row[column]:
            factor = row[column]
            table[k] = [a - factor * b for a, b in zip(row, pivot, strict=True)]
    if goal is not None and goal[column]:
        factor = goal[column]
        goal[:] = [a - factor * b for a, b in zip(goal, pivot, strict=True)]
