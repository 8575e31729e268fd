"""Structured replies, DF, block status, write-zeroes flags, cache and both ways of leaving."""
import sys
import nbd

MIB = 1 << 20

h = nbd.NBD()
h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
h.connect_uri(sys.argv[1])
assert h.get_structured_replies_negotiated()
assert h.can_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
assert h.get_size() == 16 * MIB
assert h.get_block_size(nbd.SIZE_MINIMUM) >= 1
assert h.get_block_size(nbd.SIZE_PREFERRED) == 4096

h.pwrite(b"\x01" * MIB, 4 * MIB)
h.pwrite(b"\x02" * 5000, 8 * MIB + 123, nbd.CMD_FLAG_FUA)

# A read across a hole and data, in chunks and in one piece.
chunks = []
data = h.pread_structured(2 * MIB, 3 * MIB, lambda part, offset, status, error: chunks.append((offset, len(part), status)))
assert data == b"\x00" * MIB + b"\x01" * MIB
covered = sum(length for _, length, status in chunks if status == nbd.READ_DATA)
assert covered <= 2 * MIB and all(3 * MIB <= offset < 5 * MIB for offset, _, _ in chunks), chunks
whole = []
h.pread_structured(2 * MIB, 3 * MIB, lambda part, offset, status, error: whole.append(status), nbd.CMD_FLAG_DF)
assert len(whole) == 1, whole

# The block status covers the range without gaps, and data only where something was written.
extents = []
h.block_status(16 * MIB, 0, lambda context, offset, entries, error: extents.extend(entries))
lengths, flags = extents[::2], extents[1::2]
assert sum(lengths) <= 16 * MIB and len(lengths) >= 3, extents
position = 0
for length, flag in zip(lengths, flags):
    if flag == 0:
        assert 4 * MIB <= position < 8 * MIB + 8192, (position, length)
    position += length
one = []
h.block_status(16 * MIB, 0, lambda context, offset, entries, error: one.extend(entries), nbd.CMD_FLAG_REQ_ONE)
assert len(one) == 2, one

# Zeroes with and without a hole, fast or refused, and trim.
h.zero(MIB, 4 * MIB, nbd.CMD_FLAG_NO_HOLE)
assert h.pread(MIB, 4 * MIB) == b"\x00" * MIB
if h.can_fast_zero():
    h.pwrite(b"\x03" * 8192, 0)
    try:
        h.zero(8192, 0, nbd.CMD_FLAG_FAST_ZERO)
        assert h.pread(8192, 0) == b"\x00" * 8192
    except nbd.Error as error:
        assert error.errno in ("ENOTSUP", "EOPNOTSUPP"), error
h.trim(8 * MIB, 8 * MIB)
h.flush()
if h.can_cache():
    h.cache(MIB, 0)
h.shutdown()

# A client that wants nothing but the old simple replies gets them.
plain = nbd.NBD()
plain.set_request_structured_replies(False)
plain.connect_uri(sys.argv[1])
assert not plain.get_structured_replies_negotiated()
plain.pwrite(b"\x09" * 512, 1024)
assert plain.pread(2048, 0)[1024:1536] == b"\x09" * 512
plain.shutdown()
