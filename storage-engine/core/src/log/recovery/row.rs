//! The rows of the decision table of recovery, `docs/recovery-table.md`, by name: each recovery says which of them decided
//! it, so that a test can tell a row that was never met from one that was.

use std::fmt;

/// Declares the enum and everything that must cover all of it.
macro_rules! rows {
    ($($variant:ident, $name:literal: $meaning:literal.)*) => {
        /// A row of the decision table. `n` is the first frame that is missing or bad.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum Row {
            $(
                #[doc = $meaning]
                $variant,
            )*
        }

        impl Row {
            /// Every one, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Its name in the table.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name),*
                }
            }
        }
    };
}

rows! {
    Whole, "whole": "A valid frame that a later one vouches for: it stands.".
    WholeUnvouched, "whole-unvouched": "A valid frame whose payload matches and that nothing vouches for: it stands.".
    Continued, "continued": "Another segment continues the log at `n`: it goes on there.".
    Nothing, "nothing": "Nothing of this log is at `n` or beyond: a clean end.".
    TornHeader, "torn-header": "The header of `n` is not whole, and nothing vouches for it: a torn tail.".
    TornPayload, "torn-payload": "The payload of `n` does not match, and nothing vouches for it: a torn tail.".
    VouchedPayload, "vouched-payload":
        "Payload does not match, but a later frame vouches for its own. Recovery does not read it, so that it never reports \
         this row: whoever knows of the damage may.".
    Overtaken, "overtaken": "Frames beyond `n` were written, none of which vouches for it: a torn tail.".
    LostByFrame, "lost-by-frame": "`n` is missing or bad, and a valid frame vouches for it: lost.".
    LostByHeader, "lost-by-header": "`n` is missing or bad, and the header of a segment vouches for it: lost.".
    LostSegmentHeader, "lost-segment-header": "A segment's header is lost, and frames of the segment vouch for `n`: lost.".
    Unreadable, "unreadable":
        "`n`, or a place that might hold it or vouch for it, cannot be read, and nothing that can vouches for it: refused.".
    UnreadableVouched, "unreadable-vouched": "The same, and something vouches for `n`: refused.".
    Leftover, "leftover": "A valid frame of this disk and place, but of the past: it means nothing.".
    LaterOpening, "later-opening":
        "The frame at `n` is of a later opening than the segment that continues there: it stands, that segment was given up.".
    Stranger, "stranger": "A valid frame or header of another disk, or meant for another place: it means nothing.".
    Checkpoint, "checkpoint": "An anchor names a checkpoint: the log begins where it says.".
    OneAnchor, "one-anchor": "One of the two anchors is damaged or cannot be read: the other rules.".
    CheckpointDamaged, "checkpoint-damaged": "Both anchors, or a part of the checkpoint, are damaged: lost.".
    CheckpointUnreadable, "checkpoint-unreadable": "Both anchors, or a part of the checkpoint, cannot be read: refused.".
    NewerBuild, "newer-build": "Whole, but of a version or kind that this build does not know: refused.".
    DiskTooShort, "disk-too-short": "Beyond the end of the device: refused.".
}

impl Row {
    /// The row of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|row| row.name() == name)
    }

    /// Whether a disk can bring it about, so that whoever injects every fault of disks is to meet it. The others are
    /// of disks that were written by something else.
    pub const fn is_fault_of_disks(self) -> bool {
        !matches!(self, Self::NewerBuild)
    }
}

/// A set of rows.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Rows(u32);

impl Rows {
    /// None.
    pub const fn none() -> Self {
        Self(0)
    }

    /// Adds a row.
    pub const fn insert(&mut self, row: Row) {
        self.0 |= 1 << row as u32;
    }

    /// Adds those of another set.
    pub const fn extend(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// Whether it has this row.
    pub const fn contains(self, row: Row) -> bool {
        self.0 & 1 << row as u32 != 0
    }

    /// Its rows in the order of the table.
    pub fn iter(self) -> impl Iterator<Item = Row> {
        Row::ALL.iter().copied().filter(move |row| self.contains(*row))
    }
}

impl FromIterator<Row> for Rows {
    fn from_iter<T: IntoIterator<Item = Row>>(rows: T) -> Self {
        let mut set = Self::none();
        rows.into_iter().for_each(|row| set.insert(row));
        set
    }
}

impl fmt::Display for Rows {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, row) in self.iter().enumerate() {
            let comma = if place == 0 { "" } else { ", " };
            write!(formatter, "{comma}{}", row.name())?;
        }
        Ok(())
    }
}

impl fmt::Debug for Rows {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Rows({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The cells of the decision table's rows, without their padding.
    fn table() -> Vec<Vec<&'static str>> {
        let text = include_str!("../../../../../docs/recovery-table.md");
        let (_, behind) = text.split_once("## The table\n").unwrap();
        let (section, _) = behind.split_once("\n## ").unwrap();
        let lines = section.lines().filter(|line| line.starts_with("| `"));
        lines
            .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
            .collect()
    }

    fn unquoted(cell: &str) -> Vec<&str> {
        cell.split(", ").map(|word| word.trim_matches('`')).collect()
    }

    #[test]
    fn the_rows_are_those_of_the_document() {
        let documented: Vec<&str> = table().iter().flat_map(|cells| unquoted(cells[0])).collect();
        let known: Vec<&str> = Row::ALL.iter().map(|row| row.name()).collect();
        assert_eq!(
            documented, known,
            "docs/recovery-table.md and the enum, in the same order"
        );
    }

    #[test]
    fn every_row_of_the_document_has_a_test() {
        // Checkpoints are written by whole cores, which the simulator runs.
        let tests = [
            include_str!("../tests/rows.rs"),
            include_str!("../../../../sim/tests/cluster/checkpoints.rs"),
        ];
        for cells in table() {
            let [row, _, _, _, named] = cells[..] else {
                panic!("five cells, not {cells:?}")
            };
            for test in unquoted(named) {
                let declaration = format!("\nfn {test}()");
                assert!(
                    tests.iter().any(|file| file.contains(&declaration)),
                    "{row} names the test {test:?}"
                );
            }
        }
    }

    #[test]
    fn a_set_holds_what_was_put_into_it() {
        let mut rows: Rows = [Row::DiskTooShort, Row::Whole].into_iter().collect();
        assert!(rows.contains(Row::Whole) && !rows.contains(Row::Nothing));
        assert_eq!(rows.to_string(), "whole, disk-too-short");
        rows.extend(Row::ALL.iter().copied().collect());
        assert!(rows.iter().eq(Row::ALL.iter().copied()));
        assert!(Row::ALL.iter().all(|row| Row::named(row.name()) == Some(*row)));
    }
}
