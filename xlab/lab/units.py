"""Amounts as people read them."""


def size(n_bytes: int) -> str:
    """Write bytes in a unit that suits them: 23.5 GiB."""
    amount = float(n_bytes)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            break
        amount /= 1024
    return f"{amount:,.0f} {unit}" if unit == "bytes" else f"{amount:,.1f} {unit}"
