//! Every file says what it is, and nothing but the list of its parts stands in a library's first file.

use super::Finding;
use super::source::Tree;

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in &tree.sources {
        // A build script and a fuzz target may begin with an inner attribute.
        let mut lines = source
            .text
            .lines()
            .skip_while(|line| line.starts_with("#!") || line.is_empty());
        let first = lines.next().unwrap_or_default();
        if !first.starts_with("//!") {
            findings.push(Finding::new(
                &source.path,
                1,
                "does not begin with //! and a sentence that says what it is",
            ));
        }
        if source.path.ends_with("src/lib.rs") {
            let is_list = |item: &syn::Item| matches!(item, syn::Item::Mod(_) | syn::Item::Use(_));
            if source.ast.items.iter().any(|item| !is_list(item)) {
                findings.push(Finding::new(
                    &source.path,
                    1,
                    "a lib.rs holds modules and re-exports only",
                ));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_a_sentence_is_found() {
        assert_eq!(check(&Tree::of("x/src/a.rs", "use std::fmt;\n")).len(), 1);
        assert!(check(&Tree::of("x/src/a.rs", "//! What it is.\nuse std::fmt;\n")).is_empty());
        assert!(check(&Tree::of("x/fuzz_targets/a.rs", "#![no_main]\n//! What it is.\n")).is_empty());
    }

    #[test]
    fn a_library_starts_with_a_list() {
        assert_eq!(
            check(&Tree::of("x/src/lib.rs", "//! What it is.\nfn f() {}\n")).len(),
            1
        );
        assert!(check(&Tree::of("x/src/lib.rs", "//! What it is.\nmod a;\npub use a::B;\n")).is_empty());
    }
}
