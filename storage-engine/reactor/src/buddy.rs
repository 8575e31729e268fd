//! The book-keeping of an arena: a buddy allocator over page numbers that hands out runs of any length.
//!
//! A run is cut from the smallest free power of two that holds it and the unused tail goes back at once, so a frame of
//! 33 pages costs 33 pages and not 64. Nothing here touches the memory itself.

/// Marks the end of a free list, and a page that heads no free block.
const NONE: u32 = u32::MAX;
/// A page that heads no free block.
const NOT_FREE: u8 = u8::MAX;

/// Which pages of an arena are free.
pub(crate) struct Buddy {
    /// Per order, the first page of the first free block of `1 << order` pages.
    heads: Vec<u32>,
    /// Per page, the neighbours in its free list; meaningful for pages that head a free block.
    next: Vec<u32>,
    previous: Vec<u32>,
    /// Per page, the order of the free block it heads, or [`NOT_FREE`].
    order: Vec<u8>,
    pages: u32,
    free_pages: u32,
}

impl Buddy {
    /// An allocator of `pages` free pages.
    pub(crate) fn new(pages: u32) -> Self {
        let orders = 32 - pages.leading_zeros();
        let count = pages as usize;
        let mut buddy = Self {
            heads: vec![NONE; orders as usize],
            next: vec![NONE; count],
            previous: vec![NONE; count],
            order: vec![NOT_FREE; count],
            pages,
            free_pages: 0,
        };
        buddy.release(0, pages);
        buddy
    }

    /// Pages that are free.
    pub(crate) fn free_pages(&self) -> u32 {
        self.free_pages
    }

    /// The first page of a run of `pages`, which is aligned to the run's length rounded up to a power of two.
    pub(crate) fn allocate(&mut self, pages: u32) -> Option<u32> {
        assert!(pages > 0, "an empty run has no place");
        if pages > self.free_pages {
            return None;
        }
        let wanted = pages.next_power_of_two().trailing_zeros() as usize;
        let found = (wanted..self.heads.len()).find(|order| self.heads[*order] != NONE)?;
        let first = self.heads[found];
        self.unlink(first);
        self.free_pages -= 1 << found;
        let kept = first + pages;
        self.release(kept, first + (1 << found) - kept);
        Some(first)
    }

    /// Gives back a run of `pages` from `first` on, which was allocated, or is part of one that was.
    pub(crate) fn release(&mut self, first: u32, pages: u32) {
        assert!(
            first.checked_add(pages).is_some_and(|end| end <= self.pages),
            "the run lies in the arena"
        );
        let mut at = first;
        let mut left = pages;
        while left > 0 {
            let alignment = if at == 0 { 31 } else { at.trailing_zeros() };
            let order = alignment.min(31 - left.leading_zeros());
            self.free_pages += 1 << order;
            self.link_merged(at, order);
            at += 1 << order;
            left -= 1 << order;
        }
    }

    /// Links a free block after joining it with its free buddies.
    fn link_merged(&mut self, mut first: u32, mut order: u32) {
        assert!(self.order[first as usize] == NOT_FREE, "a page is freed once");
        while (order as usize) + 1 < self.heads.len() {
            let buddy = first ^ (1 << order);
            if buddy >= self.pages || u32::from(self.order[buddy as usize]) != order {
                break;
            }
            self.unlink(buddy);
            first = first.min(buddy);
            order += 1;
        }
        self.link(first, order);
    }

    #[expect(clippy::cast_possible_truncation, reason = "an order is below 32")]
    fn link(&mut self, page: u32, order: u32) {
        let head = self.heads[order as usize];
        self.next[page as usize] = head;
        self.previous[page as usize] = NONE;
        if head != NONE {
            self.previous[head as usize] = page;
        }
        self.heads[order as usize] = page;
        self.order[page as usize] = order as u8;
    }

    fn unlink(&mut self, page: u32) {
        let order = self.order[page as usize];
        assert!(order != NOT_FREE, "only a free block is in a list");
        let (next, previous) = (self.next[page as usize], self.previous[page as usize]);
        if previous == NONE {
            self.heads[usize::from(order)] = next;
        } else {
            self.next[previous as usize] = next;
        }
        if next != NONE {
            self.previous[next as usize] = previous;
        }
        self.order[page as usize] = NOT_FREE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small generator, so that a failing run is repeated by its seed.
    fn next(state: &mut u64) -> u64 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }

    #[test]
    fn runs_never_overlap_and_everything_comes_back() {
        for (seed, pages) in [(1_u64, 256_u32), (2, 1000), (3, 4096), (4, 1)] {
            let mut state = seed;
            let mut buddy = Buddy::new(pages);
            let mut used = vec![false; pages as usize];
            let mut runs: Vec<(u32, u32)> = Vec::new();
            for _ in 0..20_000 {
                if next(&mut state).is_multiple_of(2) || runs.is_empty() {
                    let wanted = 1 + (next(&mut state) % 70) as u32;
                    if let Some(first) = buddy.allocate(wanted) {
                        for page in first..first + wanted {
                            assert!(
                                !std::mem::replace(&mut used[page as usize], true),
                                "seed {seed}: page {page} twice"
                            );
                        }
                        runs.push((first, wanted));
                    }
                } else {
                    let index = usize::try_from(next(&mut state)).unwrap() % runs.len();
                    let (first, count) = runs.swap_remove(index);
                    used[first as usize..(first + count) as usize].fill(false);
                    buddy.release(first, count);
                }
                let busy = used.iter().filter(|page| **page).count();
                assert_eq!(buddy.free_pages() as usize, pages as usize - busy, "seed {seed}");
            }
            for (first, count) in runs {
                buddy.release(first, count);
            }
            assert_eq!(buddy.free_pages(), pages);
            let largest = 1 << (31 - pages.leading_zeros());
            assert!(buddy.allocate(largest).is_some(), "seed {seed}: freed runs join again");
        }
    }

    #[test]
    fn a_run_costs_no_more_than_its_length() {
        let mut buddy = Buddy::new(64);
        buddy.allocate(33).unwrap();
        assert_eq!(buddy.free_pages(), 31);
    }
}
