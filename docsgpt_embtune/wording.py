"""How numbers are said."""


def counted(number: int, noun: str) -> str:
    """Say how many there are, of a noun that takes an s: 1 question, 2,000 questions."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
