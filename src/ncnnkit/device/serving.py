"""The host's side of a serving process, which may run on a broken or hostile board."""

from __future__ import annotations

from ..codec import as_dataclass
from ..errors import FormatError
from ..onboard.answers import Answer
from ..onboard.child import Child
from ..onboard.messages import Message
from ..onboard.reading import ProtocolError


class CheckedChild(Child):
    """A serving process with checked answers. An invalid answer is a WorkerError."""

    def _read(self, message: Message, kind: type[Answer]) -> Answer:
        try:
            return as_dataclass(message, kind)
        except FormatError as error:
            raise ProtocolError(error.line()) from None
