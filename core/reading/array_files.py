"""Read arrays in `.npy` and `.npz`, trusted only as far as their header fits what is read.

A header is compared with the form in which NumPy writes it and never evaluated, so a damaged one is refused
before anything is allocated; arrays of objects are not read.
"""

from __future__ import annotations

import io
import lzma
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.errors import WorkError
from core.files import regular
from core.reading.maps import map_file

_LONGEST = 1 << 16  # bytes of a header
_PIECE = 1 << 20  # bytes
_MEMBER = 30  # bytes of a member's own header, before its name
_TYPE = r"'[<>|][a-zA-Z?]\d{0,4}'"
_FIELD = rf"\('\w{{1,64}}', {_TYPE}\)"
_HEADER = re.compile(
    rf"\{{'descr': (?P<descr>{_TYPE}|\[{_FIELD}(?:, {_FIELD}){{0,63}}\]), "
    r"'fortran_order': (?P<order>False|True), "
    r"'shape': \((?P<shape>|\d{1,18},|\d{1,18}(?:, \d{1,18}){1,31})\), \} *\n"
)
_PAIR = re.compile(r"'(\w+)', '([^']+)'")


class DamagedArray(WorkError):
    """The bytes are not an array as NumPy writes it, or not the array that was described."""


class Header(NamedTuple):
    """The content of a `.npy` header.  offset: of the first value, in bytes from the header's start."""

    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        """Return the bytes of all values."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(file: IO[bytes]) -> Header:
    """Read the header that begins here; the file stands at the first value after it.

    ValueError where it is none, or tells of objects or of Fortran order.
    """
    head = file.read(8)
    if head[:6] != np.lib.format.MAGIC_PREFIX or head[6:] not in (b"\1\0", b"\2\0", b"\3\0"):
        raise ValueError("it does not begin as a .npy file")
    field = "<H" if head[6] == 1 else "<I"
    size = file.read(struct.calcsize(field))
    if len(size) < struct.calcsize(field) or (length := struct.unpack(field, size)[0]) > _LONGEST:
        raise ValueError("the length of its header is damaged")
    match = _HEADER.fullmatch(file.read(length).decode("ascii", errors="replace"))
    if match is None:
        raise ValueError("its header is damaged")
    if match["order"] == "True":
        raise ValueError("its values are in Fortran order")
    try:
        named = _PAIR.findall(match["descr"])
        dtype = np.dtype(named if match["descr"][0] == "[" else match["descr"].strip("'"))
    except (TypeError, ValueError) as error:
        raise ValueError(f"its header names no type of numbers ({error})") from None
    if dtype.hasobject:
        raise ValueError("it holds objects")
    shape = tuple(int(size) for size in re.findall(r"\d+", match["shape"]))
    return Header(dtype, shape, len(head) + len(size) + length)


def mapped(path: Path) -> np.ndarray:
    """Map the array of a `.npy` file, read-only; DamagedArray where it is not whole."""
    try:
        with open(path, "rb", opener=regular) as file:
            header = read_header(file)
            data = map_file(file)
    except (OSError, ValueError) as error:
        raise DamagedArray(f"{path}: not readable ({error})") from None
    if (size := len(data)) != header.offset + header.nbytes:
        expected = f"{header.nbytes} after its header of {header.offset}"
        raise DamagedArray(f"{path}: not readable (it has {size} bytes, not {expected})")
    if not header.nbytes:
        return np.empty(header.shape, header.dtype)
    return np.frombuffer(data, header.dtype, offset=header.offset).reshape(header.shape)


def parse(data: bytearray) -> NDArray[Any]:
    """Return the array that a `.npy` file of these bytes holds, uncopied; ValueError where it is damaged."""
    header = read_header(io.BytesIO(data))
    if len(data) != header.offset + header.nbytes:
        raise ValueError(f"{len(data)} bytes are not what {header.dtype} {header.shape} takes")
    array: NDArray[Any] = np.frombuffer(data, header.dtype, offset=header.offset).reshape(header.shape)
    return array


class Archive:
    """The arrays of an open `.npz`."""

    def __init__(self, archive: zipfile.ZipFile, file: IO[bytes]) -> None:
        self._archive, self._file = archive, file

    @property
    def names(self) -> frozenset[str]:
        return frozenset(each.removesuffix(".npy") for each in self._archive.namelist())

    def header(self, name: str) -> Header:
        """Return what an array says of itself; within `open_archive`."""
        with self._archive.open(self._archive.getinfo(f"{name}.npy")) as member:
            return read_header(member)

    def read(self, name: str, most: int) -> NDArray[Any]:
        """Return an array, its CRC compared before its header is believed; within `open_archive`.

        most: bytes that its numbers may take.
        """
        info = self._archive.getinfo(f"{name}.npy")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{name} is compressed in a way that NumPy does not write")
        if info.file_size > most + _LONGEST:
            raise ValueError(f"{name} has {info.file_size} bytes, at most {most} are expected")
        data = bytearray(info.file_size)
        with memoryview(data) as view, self._archive.open(info) as member:
            start = 0
            while piece := member.read(_PIECE):  # the last read compares the CRC
                view[start : start + len(piece)] = piece
                start += len(piece)
        return parse(data)

    def rows(self, name: str, shape: tuple[int, ...], dtype: Any, rows: range) -> NDArray[Any]:
        """Return some rows of an array of this shape and type; within `open_archive`.

        Of an array that is not compressed no other rows are read. The CRC is not compared, as `check` does.
        """
        info = self._archive.getinfo(f"{name}.npy")
        with self._archive.open(info) as member:
            header = read_header(member)
            if (header.shape, header.dtype) != (shape, np.dtype(dtype)):
                raise ValueError(f"{name} is {header.dtype} {header.shape}, not {np.dtype(dtype)} {shape}")
            if info.file_size != header.offset + header.nbytes:
                raise ValueError(f"{name} has {info.file_size} bytes, which its header does not say")
            each = header.nbytes // max(1, shape[0])
            start, size = header.offset + rows.start * each, len(rows) * each
            if info.compress_type == zipfile.ZIP_STORED:
                self._file.seek(self._begin(info) + start)
                data = self._file.read(size)
            else:
                member.seek(start)  # inflates what comes before
                data = member.read(size)
        if len(data) < size:
            raise ValueError(f"{name} ends within rows {rows.start} to {rows.stop - 1}")
        return np.frombuffer(data, header.dtype).reshape(len(rows), *shape[1:])

    def check(self, name: str) -> None:
        """Read all of an array for its CRC; within `open_archive`."""
        with self._archive.open(self._archive.getinfo(f"{name}.npy")) as member:
            while member.read(_PIECE):
                pass

    def _begin(self, info: zipfile.ZipInfo) -> int:
        """Return where in the file the bytes of a member begin, behind its own header (APPNOTE 4.3.7)."""
        self._file.seek(info.header_offset)
        name, extra = struct.unpack("<26xHH", self._file.read(_MEMBER))
        return info.header_offset + _MEMBER + int(name) + int(extra)


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Open an `.npz`; DamagedArray, without the path, for whatever the block cannot read from it."""
    try:
        with open(path, "rb", opener=regular) as file, zipfile.ZipFile(file) as archive:
            yield Archive(archive, file)
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, OverflowError) as error:
        raise DamagedArray(f"damaged ({type(error).__name__}: {error})") from None
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, MemoryError) as error:
        raise DamagedArray(f"damaged ({type(error).__name__}: {error})") from None
