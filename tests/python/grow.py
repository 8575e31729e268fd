"""A connected client uses what a volume has more, without a new connection; one that connects sees it."""
import subprocess
import sys
import nbd

uri, size, larger = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
command = sys.argv[4:]

h = nbd.NBD()
# The library remembers the size it was told: let it send what lies beyond.
h.set_strict_mode(0)
h.connect_uri(uri)
assert h.get_size() == size
h.pwrite(b"a" * 4096, size - 4096)
try:
    h.pwrite(b"b" * 4096, size)
except nbd.Error as error:
    assert error.errno == "ENOSPC", error.errno
else:
    raise AssertionError("a write beyond the end was taken")

subprocess.run(command, check=True)

# Across the old end, at the new one, and beyond it.
h.pwrite(b"c" * 8192, size - 4096)
h.pwrite(b"d" * 4096, larger - 4096)
assert h.pread(8192, size - 4096) == b"c" * 8192
assert h.pread(4096, size + 4096) == bytes(4096)
h.zero(4096, size)
h.trim(4096, larger - 4096)
assert h.pread(4096, larger - 4096) == bytes(4096)
try:
    h.pread(4096, larger)
except nbd.Error as error:
    assert error.errno == "EINVAL", error.errno
else:
    raise AssertionError("a read beyond the new end was answered")
h.shutdown()

h = nbd.NBD()
h.connect_uri(uri)
assert h.get_size() == larger, h.get_size()
h.shutdown()
