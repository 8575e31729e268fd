"""What lies beyond the end is refused with the protocol's errors, and the connection goes on."""
import sys
import nbd

h = nbd.NBD()
# Let the library send what it would refuse itself.
h.set_strict_mode(0)
h.connect_uri(sys.argv[1])
size = h.get_size()


def refused(what, call, errors):
    try:
        call()
    except nbd.Error as error:
        assert error.errno in errors, f"{what}: {error.errno}, not one of {errors}"
        return
    raise AssertionError(f"{what} was not refused")


refused("read beyond the end", lambda: h.pread(4096, size), ("EINVAL",))
refused("read across the end", lambda: h.pread(8192, size - 4096), ("EINVAL",))
refused("write across the end", lambda: h.pwrite(b"x" * 8192, size - 4096), ("ENOSPC", "EINVAL"))
refused("trim beyond the end", lambda: h.trim(4096, size + 4096), ("EINVAL", "ENOSPC"))
refused("zero beyond the end", lambda: h.zero(4096, size), ("ENOSPC", "EINVAL"))
refused("offset that wraps around", lambda: h.pread(4096, (1 << 63) - 4096), ("EINVAL",))
refused("unknown flag", lambda: h.flush(1 << 9), ("EINVAL",))

h.pwrite(b"y" * 4096, size - 4096)
assert h.pread(4096, size - 4096) == b"y" * 4096
h.shutdown()
