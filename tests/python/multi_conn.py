"""Two connections through two engines: what one has been told is written, the other reads."""
import sys
import nbd

one, two = nbd.NBD(), nbd.NBD()
one.connect_uri(sys.argv[1])
two.connect_uri(sys.argv[2])
assert one.can_multi_conn() and two.can_multi_conn()

for turn in range(100):
    block = bytes([turn % 255 + 1]) * 4096
    one.pwrite(block, turn * 4096)
    seen = two.pread(4096, turn * 4096)
    assert seen == block, f"turn {turn}: the other engine reads {seen[:8]!r}"

# A flush on one connection covers what was answered on another of the same engine.
again = nbd.NBD()
again.connect_uri(sys.argv[1])
again.flush()
for handle in (one, two, again):
    handle.shutdown()
