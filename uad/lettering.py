"""Names of files, methods and channels in figures."""


def as_written(text: str) -> str:
    """Text that matplotlib shows as it is: between two dollar signs it would read a formula."""
    return text.replace("$", r"\$")
