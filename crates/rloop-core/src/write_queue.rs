//! The write queue of a stream transport: what was accepted from the user and not yet by the
//! kernel.
//!
//! Chunks are kept as they were given (a `bytes` object is not copied) and leave in order. The
//! queue counts bytes, because the water marks are in bytes.

use std::collections::VecDeque;

/// A queue of byte chunks.
pub struct WriteQueue<B> {
    chunks: VecDeque<B>,
    /// How much of the first chunk is gone. Invariant: less than its length, or 0 when empty.
    first_offset: usize,
    /// Bytes that are left. Invariant: the sum of the chunks' lengths less `first_offset`.
    len: usize,
}

impl<B: AsRef<[u8]>> WriteQueue<B> {
    /// An empty queue.
    #[must_use]
    pub fn new() -> Self {
        Self { chunks: VecDeque::new(), first_offset: 0, len: 0 }
    }

    /// Bytes that are left.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends what `chunk` holds from byte `offset` on. Hands back a chunk that holds nothing: the
    /// caller drops it where dropping is allowed.
    ///
    /// # Panics
    /// If `offset` is not 0 and the queue is not empty: only the oldest chunk can be partly sent.
    #[must_use]
    pub fn push(&mut self, chunk: B, offset: usize) -> Option<B> {
        let len = chunk.as_ref().len();
        if offset >= len {
            return Some(chunk);
        }
        if self.chunks.is_empty() {
            self.first_offset = offset;
        } else {
            assert_eq!(offset, 0, "only the first chunk of a queue can be partly sent");
        }
        self.len += len - offset;
        self.chunks.push_back(chunk);
        None
    }

    /// The oldest chunk, and how much of it is gone.
    #[must_use]
    pub fn first(&self) -> Option<(&B, usize)> {
        self.chunks.front().map(|chunk| (chunk, self.first_offset))
    }

    /// The bytes that are left, in order, one slice a chunk.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        self.chunks.iter().enumerate().map(|(index, chunk)| {
            let bytes = chunk.as_ref();
            if index == 0 { &bytes[self.first_offset..] } else { bytes }
        })
    }

    /// Forgets the first `count` bytes and hands back the chunks that are used up: the caller
    /// drops them where dropping is allowed.
    ///
    /// # Panics
    /// If there are fewer bytes than `count`.
    #[must_use]
    pub fn advance(&mut self, count: usize) -> Vec<B> {
        assert!(count <= self.len, "the kernel took more than it was offered");
        self.len -= count;
        self.first_offset += count;
        let mut used = 0;
        for chunk in &self.chunks {
            let len = chunk.as_ref().len();
            if self.first_offset < len {
                break;
            }
            self.first_offset -= len;
            used += 1;
        }
        self.chunks.drain(..used).collect()
    }

    /// Empties the queue and hands back its chunks.
    #[must_use]
    pub fn take(&mut self) -> VecDeque<B> {
        self.first_offset = 0;
        self.len = 0;
        std::mem::take(&mut self.chunks)
    }

    /// The chunks, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &B> {
        self.chunks.iter()
    }
}

impl<B: AsRef<[u8]>> Default for WriteQueue<B> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_empty_chunk_leaves_no_trace() {
        let mut queue = WriteQueue::new();
        assert_eq!(queue.push(Vec::new(), 0), Some(Vec::new()));
        assert_eq!(queue.push(vec![1], 1), Some(vec![1]));
        assert!(queue.is_empty());
        assert_eq!(queue.slices().count(), 0);
    }

    proptest! {
        #[test]
        fn leaves_in_order_whatever_the_kernel_takes(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..20),
            first_offset in 0usize..20,
            takes in prop::collection::vec(1usize..30, 1..400),
        ) {
            let mut queue = WriteQueue::new();
            let mut model = Vec::new();
            for (index, chunk) in chunks.iter().enumerate() {
                let offset = if index == 0 { first_offset } else { 0 };
                model.extend_from_slice(chunk.get(offset..).unwrap_or_default());
                drop(queue.push(chunk.clone(), offset));
            }
            for take in takes {
                prop_assert_eq!(queue.len(), model.len());
                prop_assert_eq!(queue.slices().flatten().copied().collect::<Vec<_>>(), model.clone());
                prop_assert!(queue.slices().all(|slice| !slice.is_empty()));
                let first = queue.first().map(|(chunk, offset)| &chunk[offset..]);
                prop_assert_eq!(first, queue.slices().next());
                let count = take.min(model.len());
                drop(queue.advance(count));
                model.drain(..count);
            }
        }
    }
}
