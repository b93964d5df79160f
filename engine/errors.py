"""UserError: the one base class of every error that is meant for a person.

Whoever shows errors, the command line or a screen, knows this class and no other; a room of the engine has a class of
its own under it, so that it can catch its own. Everything that is no UserError is a fault of ours or of a library, and
is shown with its traceback. This module is light.
"""


class UserError(Exception):
    """Something that a person has to know and can mend.

    Args:
        message: what is wrong: it names the file, row or key, what it got, and what was expected.
        hint: what to do about it; empty where the message says so already.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def told(self) -> str:
        """Message and hint, for a terminal: on a line of its own each."""
        return f"{self}\n{self.hint}" if self.hint else str(self)
