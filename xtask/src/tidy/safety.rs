//! `unsafe` in one crate only, and justified there.

use syn::visit::{self, Visit};

use super::Finding;
use super::source::{Source, Tree};

/// The one crate that may use `unsafe`: it drives io_uring.
const UNSAFE_CRATE: &str = "storage-engine/reactor";
/// How many lines of code may stand between a SAFETY comment and its `unsafe`, as in `let x =\n    unsafe {`.
const GAP_MAX: usize = 2;

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    tree.sources.iter().flat_map(one).collect()
}

fn one(source: &Source) -> Vec<Finding> {
    let allowed = source.is_below(UNSAFE_CRATE);
    let mut findings = Vec::new();
    if !allowed && source.is_crate_root() && !forbids_unsafe(&source.ast) {
        findings.push(Finding::new(&source.path, 1, "lacks #![forbid(unsafe_code)]"));
    }
    let mut places = Places(Vec::new());
    places.visit_file(&source.ast);
    let lines: Vec<&str> = source.text.lines().collect();
    for line in places.0 {
        if !allowed {
            findings.push(Finding::new(
                &source.path,
                line,
                format!("unsafe belongs into {UNSAFE_CRATE} only"),
            ));
        } else if !is_justified(&lines, line) {
            findings.push(Finding::new(
                &source.path,
                line,
                "unsafe without a SAFETY comment above it",
            ));
        }
    }
    findings
}

fn forbids_unsafe(file: &syn::File) -> bool {
    file.attrs.iter().any(|attribute| {
        let syn::Meta::List(list) = &attribute.meta else {
            return false;
        };
        list.path.is_ident("forbid") && list.tokens.to_string().contains("unsafe_code")
    })
}

/// Whether the comment above line `line` (from 1) says why it is sound.
fn is_justified(lines: &[&str], line: usize) -> bool {
    let mut gap = 0;
    for text in lines.iter().take(line - 1).rev().map(|text| text.trim()) {
        if text.starts_with("//") {
            if text.contains("SAFETY:") || text.contains("# Safety") {
                return true;
            }
        } else if !text.starts_with("#[") {
            gap += 1;
            if gap > GAP_MAX || text.is_empty() || text.ends_with(';') {
                return false;
            }
        }
    }
    false
}

/// The lines of all `unsafe` blocks, implementations and functions.
struct Places(Vec<usize>);

impl<'ast> Visit<'ast> for Places {
    fn visit_expr_unsafe(&mut self, block: &'ast syn::ExprUnsafe) {
        self.0.push(block.unsafe_token.span.start().line);
        visit::visit_expr_unsafe(self, block);
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        self.0
            .extend(item.unsafety.as_ref().map(|token| token.span.start().line));
        visit::visit_item_impl(self, item);
    }

    fn visit_signature(&mut self, signature: &'ast syn::Signature) {
        self.0
            .extend(signature.unsafety.as_ref().map(|token| token.span.start().line));
        visit::visit_signature(self, signature);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_reactor(text: &str) -> Vec<Finding> {
        check(&Tree::of("storage-engine/reactor/src/ring.rs", text))
    }

    #[test]
    fn unsafe_needs_its_reason() {
        let bad =
            "fn f() {\n    // A comment that gives no reason.\n    unsafe { g() };\n}\nunsafe impl Send for S {}\n";
        assert_eq!(in_reactor(bad).len(), 2);
        let good = "fn f() {\n    // SAFETY: g asks for nothing.\n    let x =\n        unsafe { g() };\n}\n";
        assert!(in_reactor(good).is_empty());
    }

    #[test]
    fn unsafe_stays_in_its_crate() {
        let text = "fn f() {\n    // SAFETY: g asks for nothing.\n    unsafe { g() };\n}\n";
        assert_eq!(check(&Tree::of("storage-engine/core/src/x.rs", text)).len(), 1);
    }

    #[test]
    fn crates_forbid_unsafe() {
        assert_eq!(check(&Tree::of("cli/src/main.rs", "fn main() {}\n")).len(), 1);
        assert!(check(&Tree::of("cli/src/main.rs", "#![forbid(unsafe_code)]\nfn main() {}\n")).is_empty());
    }
}
