"""Arrays as members of a tar: plain ustar headers with integer times, `.npy` contents, never a pickle."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import IO

import numpy as np

from core.errors import WorkError
from data.tars import Member


def write_array(file: IO[bytes], name: str, array: np.ndarray, dtype: np.dtype) -> int:
    """Append an array as a `.npy` member; returns where its first value begins."""
    header = io.BytesIO()
    about = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": array.shape}
    np.lib.format.write_array_header_1_0(header, about)
    return write_member(file, name, header.getvalue(), array.astype(dtype, copy=False))


def write_member(file: IO[bytes], name: str, head: bytes, body: np.ndarray | None = None) -> int:
    """Append a member; returns where `body` begins."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(head) + (0 if body is None else body.nbytes), 0o644
    file.write(info.tobuf(tarfile.USTAR_FORMAT) + head)
    start = file.tell()
    if body is not None and body.size:
        file.write(np.ascontiguousarray(body).data.cast("B"))
    file.write(bytes(-info.size % tarfile.BLOCKSIZE))
    return start


def read_array(path: Path, name: str, member: Member, file: IO[bytes], dtype: np.dtype) -> np.ndarray:
    """The array in a member, read-only; WorkError as `array_place`."""
    shape, offset = array_place(path, name, member, file, dtype)
    file.seek(offset)
    return np.frombuffer(file.read(int(np.prod(shape)) * dtype.itemsize), dtype).reshape(shape)


def array_place(
    path: Path, name: str, member: Member, file: IO[bytes], dtype: np.dtype
) -> tuple[tuple[int, ...], int]:
    """The shape of a `.npy` member and where its values begin.

    WorkError where it is damaged or not of this dtype; no object is ever unpickled.
    """
    file.seek(member.content)
    try:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("not version 1.0 of the format")
        shape, fortran, found = np.lib.format.read_array_header_1_0(file)
    except ValueError as error:
        raise WorkError(f"{path}: {name} is no .npy array ({error})") from None
    offset = file.tell()
    if found != dtype or fortran:
        raise WorkError(f"{path}: {name} holds {found}, expected {dtype} in C order")
    if offset - member.content + int(np.prod(shape)) * dtype.itemsize != member.size:
        raise WorkError(f"{path}: {name} has {member.size} bytes, which is not what shape {shape} takes")
    return shape, offset
