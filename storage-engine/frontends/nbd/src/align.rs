//! Page-aligned payload buffers without unsafe code: a `Vec` with room to spare, filled from its first aligned byte on.

use bytes::Bytes;

/// What O_DIRECT asks of a buffer's address on every disk in use, and the size of a page.
const ALIGNMENT: usize = 4096;

/// A buffer for exactly so many bytes of payload, of which a first part has arrived.
#[derive(Debug)]
pub(crate) struct AlignedBuffer {
    storage: Vec<u8>,
    start: usize,
    length: usize,
}

impl AlignedBuffer {
    /// Room for `length` bytes. Nothing is zeroed but the few bytes in front of the first aligned one.
    pub(crate) fn new(length: usize) -> Self {
        let mut storage: Vec<u8> = Vec::with_capacity(length + ALIGNMENT - 1);
        let start = storage.as_ptr().addr().wrapping_neg() % ALIGNMENT;
        storage.resize(start, 0);
        Self { storage, start, length }
    }

    /// Bytes that have not arrived.
    pub(crate) fn missing(&self) -> usize {
        self.start + self.length - self.storage.len()
    }

    /// Takes what it needs from the front of `bytes` and says how much that was.
    pub(crate) fn fill(&mut self, bytes: &[u8]) -> usize {
        let count = self.missing().min(bytes.len());
        self.storage.extend_from_slice(&bytes[..count]);
        count
    }

    /// The payload, page-aligned in memory.
    pub(crate) fn into_bytes(self) -> Bytes {
        assert_eq!(
            self.missing(),
            0,
            "a payload was handed on before all of it had arrived"
        );
        Bytes::from(self.storage).slice(self.start..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_aligned_and_whole() {
        for length in [0, 1, 511, 4095, 4096, 4097, 1 << 20] {
            let data: Vec<u8> = (0..length).map(|i| u8::try_from(i % 251).unwrap()).collect();
            let mut buffer = AlignedBuffer::new(length);
            let half = buffer.fill(&data[..length / 2]);
            let rest = buffer.fill(&[&data[half..], b"next request"].concat());
            assert_eq!((half + rest, buffer.missing()), (length, 0));
            let payload = buffer.into_bytes();
            assert_eq!(payload, data);
            assert!(length == 0 || payload.as_ptr().addr().is_multiple_of(ALIGNMENT));
        }
    }
}
