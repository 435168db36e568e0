"""Files mapped into memory without a descriptor.

`mmap.mmap` keeps a duplicate of the descriptor for as long as the map lives (until Python 3.13 there is no
way around it), so that maps of many parts would use up the limit of open files. A map itself needs none.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

_C = ctypes.CDLL(None, use_errno=True)
_C.mmap.restype = ctypes.c_void_p
_C.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
]
_C.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_FAILED = ctypes.c_void_p(-1).value


class _Map:
    """A map that NumPy takes as an array, and which ends with the last array on it."""

    def __init__(self, address: int, size: int, *, writable: bool) -> None:
        self._address, self._size = address, size
        self._unmap = _C.munmap  # the module may be gone before the last map is
        self.__array_interface__: dict[str, Any] = {
            "data": (address, not writable),
            "shape": (size,),
            "typestr": "|u1",
            "version": 3,
        }

    def __del__(self) -> None:
        self._unmap(self._address, self._size)


def map_file(file: IO[bytes], *, writable: bool = False) -> NDArray[np.uint8]:
    """Map an open file from its begin to its end, (bytes,) uint8; the file may be closed then.

    writable: a private map that may be written to, which changes no file.  OSError where it cannot be mapped.
    """
    size = os.fstat(file.fileno()).st_size
    if not size:
        return np.empty(0, np.uint8)
    access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    address = _C.mmap(None, size, access, mmap.MAP_PRIVATE if writable else mmap.MAP_SHARED, file.fileno(), 0)
    if address == _FAILED:
        number = ctypes.get_errno()
        raise OSError(number, f"cannot be mapped: {os.strerror(number)}", file.name)
    return np.asarray(_Map(address, size, writable=writable))
