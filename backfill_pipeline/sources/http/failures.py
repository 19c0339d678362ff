"""What can be wrong with an answer, as seen by those who read it.

Belongs here: the exceptions between the parts of this package. Their texts go on after "<address>: page 3: ".
Does not: what the rest of the product sees: SourceFileError and TransientSourceError, made in `client.py`.
"""


class AnswerError(Exception):
    """The answer is not as the definition says; asking again does not change that."""


class BrokenAnswerError(Exception):
    """The answer was cut short or damaged, or there was none: asking again may help.

    Attributes:
        wait_s: how long the server asks to wait, if it does.
    """

    def __init__(self, text: str, wait_s: float | None = None) -> None:
        super().__init__(text)
        self.wait_s = wait_s


class RefusedError(Exception):
    """The server answers with a status that is no success.

    Attributes:
        status: the number.
        location: where a redirect leads.
        excerpt: the first characters of the body, without secrets, for people.
    """

    def __init__(self, status: int, location: str | None, excerpt: str) -> None:
        super().__init__(f"answers {status}")
        self.status = status
        self.location = location
        self.excerpt = excerpt
