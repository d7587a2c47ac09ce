"""A serving process as the host sees it: it may run on a board that is broken, or hostile."""

from __future__ import annotations

from ..codec import as_dataclass
from ..errors import FormatError
from ..onboard.answers import Answer
from ..onboard.child import Child
from ..onboard.messages import Message
from ..onboard.reading import ProtocolError


class CheckedChild(Child):
    """A serving process whose answers are checked. One that is not what it must be is a WorkerError."""

    def _read(self, message: Message, kind: type[Answer]) -> Answer:
        try:
            return as_dataclass(message, kind)
        except FormatError as error:
            raise ProtocolError(error.line()) from None
