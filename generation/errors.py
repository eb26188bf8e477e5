"""The one error that a user is meant to read."""


class UserError(Exception):
    """Something the user can mend: one sentence that names the file or option and the remedy."""
