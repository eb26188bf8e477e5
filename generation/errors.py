"""The one error that a user is meant to read."""


class UserError(Exception):
    """Something the user can mend: one sentence that names the file or option and the remedy."""


def first_line(error: BaseException) -> str:
    """What a library's error says, short enough to stand in a sentence of ours."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
