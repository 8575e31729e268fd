//! Aligned columns without lines: easy on the eye, and `awk` can read them too.

use comfy_table::presets;
use comfy_table::{CellAlignment, Table};

/// A column's header, and on which side its cells stand.
pub(super) enum Column {
    /// Words: to the left.
    Words(&'static str),
    /// Numbers and sizes: to the right.
    Number(&'static str),
}

/// Lays `rows` out under `columns`. Ends without a newline.
pub(super) fn layout(columns: &[Column], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).force_no_tty();
    table.set_header(columns.iter().map(|column| match column {
        Column::Words(name) | Column::Number(name) => *name,
    }));
    table.add_rows(rows);
    for (index, column) in columns.iter().enumerate() {
        if let Some(made) = table.column_mut(index) {
            made.set_padding((0, 2));
            if matches!(column, Column::Number(_)) {
                made.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    trim_lines(&table.to_string())
}

/// Lays out a list of properties, one a line. Ends without a newline.
pub(super) fn properties(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(key, _)| key.len()).max().unwrap_or(0);
    let lines: Vec<String> = pairs
        .iter()
        .map(|(key, value)| format!("{:<width$}  {value}", format!("{key}:"), width = width + 1))
        .collect();
    trim_lines(&lines.join("\n"))
}

fn trim_lines(text: &str) -> String {
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stand_left_and_numbers_right_without_trailing_blanks() {
        let columns = [Column::Words("NAME"), Column::Number("SIZE"), Column::Words("STATE")];
        let rows = vec![
            vec!["a".to_owned(), "10 GiB".to_owned(), "ready".to_owned()],
            vec!["longer-name".to_owned(), "4 KiB".to_owned(), "-".to_owned()],
        ];
        assert_eq!(
            layout(&columns, rows),
            "NAME           SIZE  STATE\na            10 GiB  ready\nlonger-name   4 KiB  -"
        );
    }

    #[test]
    fn properties_line_up() {
        let pairs = [
            ("Volume", "data".to_owned()),
            ("Attached to", "a".to_owned()),
            ("Leader", String::new()),
        ];
        assert_eq!(properties(&pairs), "Volume:       data\nAttached to:  a\nLeader:");
    }
}
