//! A table for people: columns as wide as their longest cell.

/// Prints `rows` under `head`. The first column is set to the left, the others to the right.
pub(crate) fn print(head: &[&str], rows: &[Vec<String>]) {
    let cells: Vec<Vec<String>> = std::iter::once(head.iter().map(|cell| (*cell).to_owned()).collect())
        .chain(rows.iter().cloned())
        .collect();
    let widths: Vec<usize> = (0..head.len())
        .map(|column| cells.iter().map(|row| width(row, column)).max().unwrap_or(0))
        .collect();
    for (index, row) in cells.iter().enumerate() {
        println!("{}", line(row, &widths));
        if index == 0 {
            println!(
                "{}",
                widths
                    .iter()
                    .map(|width| "-".repeat(*width))
                    .collect::<Vec<_>>()
                    .join("  ")
            );
        }
    }
}

fn width(row: &[String], column: usize) -> usize {
    row.get(column).map_or(0, |cell| cell.chars().count())
}

fn line(row: &[String], widths: &[usize]) -> String {
    let cell = |(column, text): (usize, &String)| {
        let width = widths.get(column).copied().unwrap_or(0);
        if column == 0 {
            format!("{text:<width$}")
        } else {
            format!("{text:>width$}")
        }
    };
    row.iter()
        .enumerate()
        .map(cell)
        .collect::<Vec<_>>()
        .join("  ")
        .trim_end()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aligns_numbers_to_the_right() {
        let row = ["a".to_owned(), "7".to_owned()];
        assert_eq!(line(&row, &[3, 4]), "a       7");
    }
}
