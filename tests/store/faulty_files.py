"""SQLite's file calls, counted, and made to fail: a VFS around the system's own, for tests.

`sqlite3` opens files through the process's default VFS. `FaultyFiles` puts a copy of it in that
place whose calls go on to the original, but for those that are to fail. A write that fails has
written half of its bytes, as on a disk that runs full.
"""

import ctypes
import ctypes.util
from contextlib import contextmanager

LIBRARY = ctypes.CDLL(ctypes.util.find_library("sqlite3"))
LIBRARY.sqlite3_vfs_find.restype = ctypes.c_void_p
IO_METHODS = ("Close Read Write Truncate Sync FileSize Lock Unlock CheckReservedLock FileControl "
              "SectorSize DeviceCharacteristics ShmMap ShmLock ShmBarrier ShmUnmap Fetch "
              "Unfetch").split()  # fmt: skip
VFS_METHODS = ("Open Delete Access FullPathname DlOpen DlError DlSym DlClose Randomness Sleep "
               "CurrentTime GetLastError CurrentTimeInt64 SetSystemCall GetSystemCall "
               "NextSystemCall").split()  # fmt: skip
# What a call that fails returns: an I/O error of its own kind.
CODES = {"Read": 266, "Write": 778, "Sync": 1034, "Truncate": 1546, "FileSize": 1802,
         "Lock": 3850, "Delete": 2570, "Access": 3338, "Open": 14}  # fmt: skip
P, INT, I64 = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
SIGNATURES = {
    "Read": (P, P, INT, I64),
    "Write": (P, P, INT, I64),
    "Truncate": (P, I64),
    "Sync": (P, INT),
    "FileSize": (P, P),
    "Lock": (P, INT),
    "Delete": (P, P, INT),
    "Access": (P, P, INT, P),
    "Open": (P, P, P, INT, P),
}


class _Methods(ctypes.Structure):
    _fields_ = (("version", INT), *((name, P) for name in IO_METHODS))


class _Vfs(ctypes.Structure):
    _fields_ = (
        ("version", INT),
        ("file_size", INT),
        ("longest_path", INT),
        ("following", P),
        ("name", ctypes.c_char_p),
        ("data", P),
        *((name, P) for name in VFS_METHODS),
    )


class FaultyFiles:
    """The file calls of all databases that are opened while it is installed.

    Attributes:
        calls_n: the calls since `arm`.
        failed: the names of those that failed.
    """

    def __init__(self):
        self._original = LIBRARY.sqlite3_vfs_find(None)
        self._kept, self._methods = [], {}
        self.disarm()
        self._vfs = _Vfs.from_buffer_copy(_Vfs.from_address(self._original))
        self._vfs.name = b"faulty"
        for name in ("Open", "Delete", "Access"):
            self._replace(self._vfs, name, self._original)

    def arm(self, nth, lasting):
        """Let call number `nth` fail, from 0 on, and with `lasting` all later ones too."""
        self.calls_n, self.failed, self._nth, self._lasting = 0, [], nth, lasting

    def disarm(self):
        """Let no call fail."""
        self.arm(None, False)

    @contextmanager
    def installed(self):
        """Make these the file calls of databases that a block opens."""
        LIBRARY.sqlite3_vfs_register(ctypes.byref(self._vfs), 1)
        try:
            yield self
        finally:
            LIBRARY.sqlite3_vfs_unregister(ctypes.byref(self._vfs))
            LIBRARY.sqlite3_vfs_register(ctypes.c_void_p(self._original), 1)

    def _replace(self, table, name, vfs=None):
        """Put a call of ours into a table of calls; `vfs` is what the original wants first."""
        kind = ctypes.CFUNCTYPE(INT, *SIGNATURES[name])
        original = ctypes.cast(getattr(table, name), kind)

        def call(first, *rest):
            if not self._fails(name):
                code = original(first if vfs is None else vfs, *rest)
                if name == "Open" and code == 0:
                    self._wrap(rest[1])
                return code
            if name == "Write":  # half of it
                original(first, rest[0], rest[1] // 2, rest[2])
            if name == "Open":  # as SQLite asks: no calls on a file that is not open
                ctypes.memset(rest[1], 0, ctypes.sizeof(P))
            return CODES[name]

        self._kept.append(kind(call))
        setattr(table, name, ctypes.cast(self._kept[-1], P))

    def _fails(self, name):
        nth, self.calls_n = self.calls_n, self.calls_n + 1
        fails = self._nth is not None and (nth >= self._nth if self._lasting else nth == self._nth)
        if fails:
            self.failed.append(name)
        return fails

    def _wrap(self, file):
        """Let an open file make its calls through ours."""
        slot = P.from_address(file)
        address = slot.value
        if address not in self._methods:
            methods = _Methods.from_buffer_copy(_Methods.from_address(address))
            for name in ("Read", "Write", "Truncate", "Sync", "FileSize", "Lock"):
                self._replace(methods, name)
            self._methods[address] = methods
        slot.value = ctypes.addressof(self._methods[address])
