"""Numbers as people type them: in decimal, so that 0.6 stays 0.6."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation


def decimal_within(text: str, limit: int | Decimal) -> Decimal | None:
    """The number that `text` is, if it is one from -limit to limit, else None."""
    try:
        value = Decimal(text)
    except InvalidOperation:
        return None
    return value if value.is_finite() and abs(value) <= limit else None
