"""NDR20: values to bytes and back (C706 chapter 14, MS-RPCE 2.2.4), and the chunks of pipes.

Sans-IO: no clock, lock, thread, socket or logger; bytes in, values out and the other way round.

- Annotations, for declaring interfaces: `Byte`, `UInt32`, `WString`, ..., `Unique[...]`, `Array`, `Bytes`, dataclasses.
- `Fields`: the non-pipe parameters of a request or a response. `compile_type`: one annotation's `Codec`.
- `Encoder`, `Decoder`, `Limits`, `Progress`: a stub being written, or read under limits, at once or as it arrives.
- `Element`, `PipeWriter`, `PipeReader`, `Target`: pipes.

Errors: `DeclarationError` for annotations, `ValueRefused` (87) for values of the local caller, `NdrError` (1783) for
bytes of a peer, `NeedMoreData` for bytes that have not arrived.
"""

from __future__ import annotations

from apcrt.ndr._arrays import Array, Bytes
from apcrt.ndr._buffers import Buffer, SupportsArrayInterface
from apcrt.ndr._codec import Codec, Compiler, TypeMark
from apcrt.ndr._compile import Fields, compile_type
from apcrt.ndr._cursor import DEFAULT_LIMITS, Decoder, Encoder, Limits, Progress
from apcrt.ndr._element import Chunk, Element, Target, pipe_element
from apcrt.ndr._errors import DeclarationError, NdrError, NeedMoreData, ValueRefused
from apcrt.ndr._order import ByteOrder, TransferSyntax, decode_uuid, encode_uuid
from apcrt.ndr._pipes import MAX_COUNT, PipeReader, PipeWriter
from apcrt.ndr._pointers import Unique
from apcrt.ndr._strings import String, WString
from apcrt.ndr._types import (
    Boolean,
    Byte,
    Char,
    Double,
    Enum16,
    Enum32,
    Float,
    Guid,
    Int8,
    Int16,
    Int32,
    Int64,
    UInt8,
    UInt16,
    UInt32,
    UInt64,
)

__all__ = [
    "DEFAULT_LIMITS",
    "MAX_COUNT",
    "Array",
    "Boolean",
    "Buffer",
    "Byte",
    "ByteOrder",
    "Bytes",
    "Char",
    "Chunk",
    "Codec",
    "Compiler",
    "DeclarationError",
    "Decoder",
    "Double",
    "Element",
    "Encoder",
    "Enum16",
    "Enum32",
    "Fields",
    "Float",
    "Guid",
    "Int8",
    "Int16",
    "Int32",
    "Int64",
    "Limits",
    "NdrError",
    "NeedMoreData",
    "PipeReader",
    "PipeWriter",
    "Progress",
    "String",
    "SupportsArrayInterface",
    "Target",
    "TransferSyntax",
    "TypeMark",
    "UInt8",
    "UInt16",
    "UInt32",
    "UInt64",
    "Unique",
    "ValueRefused",
    "WString",
    "compile_type",
    "decode_uuid",
    "encode_uuid",
    "pipe_element",
]
