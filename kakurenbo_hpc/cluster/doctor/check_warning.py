"""The exception of a check that finds something that may be right or wrong."""


class CheckWarning(Exception):
    """Something that may be right or wrong. The message says what to do, as a UserError's does."""
