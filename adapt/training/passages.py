"""Long documents in passages, so that one of them does not decide how long a phase is.

A phase takes whole records until its steps are full. A record is a document, or a passage of one
that is long: cut by bytes, so that every tokenizer gets the same passages, and a control the same
text as its pair.
"""

from __future__ import annotations

from collections.abc import Iterator

# Where a passage ends if it can, best first; the spaces belong to the next one.
_ENDS = ((b"\n",), (b". ", b"! ", b"? ", "。".encode()), (b" ",))


def passage_bytes(max_length: int, sequences: int) -> int:
    """UTF-8 bytes of the longest passage: of a phase's sequences an eighth at most, from 32 on.

    By bytes a token from 4 to 16: a long phase has passages of some 4 sequences of English, and of
    16 in no script, a short one of a quarter of that.

    Args:
        max_length: Of the phase; tokens.
        sequences: Of all its steps.
    """
    return max_length * min(max(sequences // 8, 4), 16)


def passages(text: str, size: int) -> Iterator[str]:
    """A text in parts of at most `size` bytes, which joined are the text.

    Each ends with a line, else a sentence, else a word, where one ends in its second half; else
    between two characters.

    Args:
        text: Any.
        size: Of the longest passage; UTF-8 bytes, at least 8.
    """
    data, start = text.encode(), 0
    while len(data) - start > size:
        end = _end(data, start, size)
        yield data[start:end].decode()
        start = end
    yield data[start:].decode()


def _end(data: bytes, start: int, size: int) -> int:
    """Where the passage that begins at `start` ends."""
    for ends in _ENDS:
        found = [(data.rfind(end, start + size // 2, start + size), end) for end in ends]
        places = [place + len(end.rstrip(b" ")) for place, end in found if place >= 0]
        if places:
            return max(places)
    cut = start + size
    while data[cut] & 0xC0 == 0x80:  # inside a character
        cut -= 1
    return cut
