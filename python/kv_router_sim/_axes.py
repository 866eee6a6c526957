"""A metric on matplotlib's axes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kv_router_sim._native import Results

_POLICY = "router.policy"


def draw(results: Results, metric: str, ax: Any, x: str | None = None) -> Any:
    """A line for each combination of the other parameters, with its 95 % interval."""
    table = results.intervals.to_pydict()
    rows = [row for row, name in enumerate(table["metric"]) if name == metric]
    values = ("metric", "unit", "mean", "ci95_low", "ci95_high")
    keys = [key for key in table if key not in values]
    varied = [key for key in keys if len({repr(table[key][row]) for row in rows}) > 1]
    along = x or next((key for key in varied if _are_numbers(table[key])), None)
    if along is None:
        raise ValueError("no number was swept: there is nothing to draw along")
    others = [key for key in varied if key != along] or [_POLICY]
    lines: dict[tuple[str, ...], list[int]] = {}
    for row in rows:
        lines.setdefault(tuple(str(table[key][row]) for key in others), []).append(row)
    for name, of_line in lines.items():
        of_line.sort(key=lambda row: table[along][row])
        xs = [table[along][row] for row in of_line]
        (line,) = ax.plot(xs, [table["mean"][row] for row in of_line], label=", ".join(name))
        bounds = [(table["ci95_low"][row], table["ci95_high"][row]) for row in of_line]
        if all(low is not None for low, _ in bounds):
            low, high = zip(*bounds)
            ax.fill_between(xs, low, high, alpha=0.2, color=line.get_color(), linewidth=0)
    unit = table["unit"][rows[0]]
    ax.set_xlabel(along)
    ax.set_ylabel(f"{metric} ({unit})" if unit else metric)
    ax.legend()
    return ax


def _are_numbers(values: list[Any]) -> bool:
    return all(isinstance(value, (int, float)) for value in values)
