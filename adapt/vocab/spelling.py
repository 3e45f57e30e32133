"""The bytes that a token stands for, from how `tokenizer.json` spells it, and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from adapt.vocab.spec import SPACE, steps

BYTE_TOKENS = tuple(f"<0x{byte:02X}>" for byte in range(256))  # SentencePiece's, by byte
_FALLBACK = {token: bytes([byte]) for byte, token in enumerate(BYTE_TOKENS)}

# Decoders under which the text is the tokens' bytes one after the other, save a space in front.
_BYTE_LEVEL = {"ByteLevel", "Fuse", "Strip"}
_SENTENCEPIECE = {"Replace", "Metaspace", "ByteFallback", "Fuse", "Strip"}
_SPACES = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}


def _byte_characters() -> tuple[str, ...]:
    """GPT-2's character for each byte.

    Printable characters of Latin-1 stand for themselves, the other bytes for U+0100 and on.
    """
    same = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return tuple(chr(byte if byte in same else next(others)) for byte in range(0x100))


BYTE_CHARACTERS = _byte_characters()
_BYTE_OF = {character: byte for byte, character in enumerate(BYTE_CHARACTERS)}


def byte_level(token: str) -> bytes:
    """Bytes of a byte-level token; those of its text where it is spelled as it reads."""
    try:
        return bytes(map(_BYTE_OF.__getitem__, token))
    except KeyError:  # an added token
        return token.encode()


def spelled_byte_level(text: bytes) -> str:
    """The byte-level spelling of bytes."""
    return "".join(map(BYTE_CHARACTERS.__getitem__, text))


def sentencepiece(token: str) -> bytes:
    """Bytes of a SentencePiece token without byte fallback."""
    return token.replace(SPACE, " ").encode()


def sentencepiece_bytes(token: str) -> bytes:
    """Bytes of a SentencePiece token, or the one byte that a token such as `<0x0A>` stands for."""
    return _FALLBACK.get(token) or sentencepiece(token)


def speller(decoder: dict[str, Any] | None) -> Callable[[str], bytes] | None:
    """A function from a token to its bytes, by the decoder of `tokenizer.json`.

    Returns:
        None where text is not the sum of its tokens: the decoder is neither byte-level nor
        SentencePiece's.
    """
    parts = steps(decoder)
    kinds = {part["type"] for part in parts}
    if "ByteLevel" in kinds and kinds <= _BYTE_LEVEL:
        return byte_level
    if kinds <= _SENTENCEPIECE and ("Metaspace" in kinds or _SPACES in parts):
        return sentencepiece_bytes if "ByteFallback" in kinds else sentencepiece
    return None
