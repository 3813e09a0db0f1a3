"""`CheckWarning`: the exception of a check whose finding is suspicious but may be intended."""


class CheckWarning(Exception):
    """Something that may be right or wrong. The message says what to do, as a UserError's does."""
