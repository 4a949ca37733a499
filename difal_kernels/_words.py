"""Numbers in messages."""


def counted(number: int, noun: str) -> str:
    """The number and its noun, in the singular or with an s: 0 picks, 1 pick, 1,000 picks."""
    return f"{number:,} {noun}" + "s" * (number != 1)
