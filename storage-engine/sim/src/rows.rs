//! The rows of the recovery table (`docs/recovery-table.md`) that decided recoveries: how many recoveries met each.

use std::collections::BTreeMap;

use cairn_core::log::recovery::{Row, Rows};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How many recoveries met which row; in JSON an object by the rows' names.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RowCounts(pub BTreeMap<Row, u64>);

impl RowCounts {
    /// Of every row none.
    pub fn zeros() -> Self {
        Self(Row::ALL.iter().map(|row| (*row, 0)).collect())
    }

    /// A recovery has met these.
    pub fn count(&mut self, rows: Rows) {
        for row in rows.iter() {
            *self.0.entry(row).or_default() += 1;
        }
    }

    /// Adds what others have met.
    pub fn add(&mut self, others: &Self) {
        for (row, count) in &others.0 {
            *self.0.entry(*row).or_default() += count;
        }
    }

    /// How many have met this one.
    pub fn of(&self, row: Row) -> u64 {
        self.0.get(&row).copied().unwrap_or(0)
    }

    /// What faults of disks can bring about and nothing did.
    pub fn never(&self) -> impl Iterator<Item = Row> {
        let expected = Row::ALL.iter().copied().filter(|row| row.is_fault_of_disks());
        expected.filter(|row| self.of(*row) == 0)
    }
}

impl Serialize for RowCounts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(row, count)| (row.name(), count)))
    }
}

impl<'de> Deserialize<'de> for RowCounts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let named = BTreeMap::<String, u64>::deserialize(deserializer)?;
        let row_of = |(name, count): (String, u64)| {
            let row =
                Row::named(&name).ok_or_else(|| D::Error::custom(format!("the recovery table has no row {name}")))?;
            Ok((row, count))
        };
        named.into_iter().map(row_of).collect::<Result<_, _>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_written_by_name_and_read_back() {
        let mut counts = RowCounts::default();
        counts.count([Row::Nothing, Row::DiskTooShort].into_iter().collect());
        counts.count([Row::Nothing].into_iter().collect());
        let text = serde_json::to_string(&counts).unwrap();
        assert_eq!(text, r#"{"nothing":2,"disk-too-short":1}"#);
        assert_eq!(serde_json::from_str::<RowCounts>(&text).unwrap(), counts);
        assert!(serde_json::from_str::<RowCounts>(r#"{"nowhere":1}"#).is_err());
    }

    #[test]
    fn what_no_fault_of_disks_can_do_is_not_missed() {
        let mut counts = RowCounts::zeros();
        assert_eq!(counts.0.len(), Row::ALL.len());
        counts.count(Row::ALL.iter().copied().filter(|row| *row != Row::NewerBuild).collect());
        assert_eq!((counts.never().count(), counts.of(Row::NewerBuild)), (0, 0));
    }
}
