"""Two connections write the two halves of the same blocks at once, and neither loses its half."""
import sys
import threading
import nbd

BLOCKS = 128
HALF = 2048
failures = []


def write(half, fill):
    try:
        handle = nbd.NBD()
        handle.connect_uri(sys.argv[1])
        for turn in range(4):
            cookies = []
            for block in range(BLOCKS):
                data = nbd.Buffer.from_bytearray(bytearray([fill + turn]) * HALF)
                cookies.append(handle.aio_pwrite(data, block * 4096 + half * HALF))
            while handle.aio_in_flight() > 0:
                handle.poll(-1)
                for cookie in [c for c in cookies if handle.aio_command_completed(c)]:
                    cookies.remove(cookie)
        handle.shutdown()
    except Exception as error:
        failures.append(f"half {half}: {error}")


threads = [threading.Thread(target=write, args=args) for args in ((0, 0x10), (1, 0x80))]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not failures, failures

reader = nbd.NBD()
reader.connect_uri(sys.argv[2])
for block in range(BLOCKS):
    data = reader.pread(4096, block * 4096)
    assert data == b"\x13" * HALF + b"\x83" * HALF, f"block {block}: {data[:4]!r} {data[HALF:HALF + 4]!r}"
reader.shutdown()
