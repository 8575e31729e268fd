//! Nothing left for later, and nothing left lying about.

use super::Finding;
use super::source::Tree;

/// Words that must not stand in a Rust file, written in two parts so that this file may hold them.
const WORDS: [(&str, &str, &str); 6] = [
    ("TO", "DO", "finish it, or describe it where its reader will look"),
    ("FIX", "ME", "mend it"),
    ("to", "do!(", "finish it"),
    ("unimple", "mented!(", "finish it"),
    ("allow(dead", "_code)", "remove what nothing uses"),
    ("db", "g!(", "remove it"),
];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in &tree.sources {
        for (index, line) in source.text.lines().enumerate() {
            for (start, end, remedy) in WORDS {
                let word = format!("{start}{end}");
                if line.contains(&word) {
                    findings.push(Finding::new(&source.path, index + 1, format!("{word}: {remedy}")));
                }
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_left_for_later() {
        let text = format!(
            "// {}{}: later\nfn f() {{ {}{}) }}\n",
            "TO", "DO", "unimple", "mented!("
        );
        let lines: Vec<usize> = check(&Tree::of("x.rs", &text))
            .iter()
            .map(|finding| finding.line)
            .collect();
        assert_eq!(lines, [1, 2]);
    }
}
