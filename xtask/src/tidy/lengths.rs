//! Files and functions that fit a reader's head.

use syn::visit::{self, Visit};

use super::Finding;
use super::source::{Source, Tree};

/// No file is longer.
const FILE_MAX: usize = 1000;
/// Half of the files are no longer.
const FILE_MEDIAN_MAX: usize = 200;
/// Nine files of ten are no longer.
const FILE_P90_MAX: usize = 500;
/// No function's body is longer, brace to brace.
const FUNCTION_MAX: usize = 70;

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings: Vec<Finding> = tree.sources.iter().flat_map(one).collect();
    let mut lengths: Vec<usize> = tree.sources.iter().map(|source| source.text.lines().count()).collect();
    lengths.sort_unstable();
    findings.extend(spread(&lengths));
    findings
}

fn one(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    let lines = source.text.lines().count();
    if lines > FILE_MAX {
        findings.push(Finding::new(
            &source.path,
            1,
            format!("{lines} lines; a file has at most {FILE_MAX}"),
        ));
    }
    let mut functions = Functions {
        source,
        findings: &mut findings,
    };
    functions.visit_file(&source.ast);
    findings
}

/// Judges the sorted lengths of all files.
fn spread(lengths: &[usize]) -> Vec<Finding> {
    let at = |percent: usize| lengths.get(lengths.len() * percent / 100).copied().unwrap_or(0);
    let mut findings = Vec::new();
    for (name, percent, max) in [("the median", 50, FILE_MEDIAN_MAX), ("nine of ten", 90, FILE_P90_MAX)] {
        if at(percent) > max {
            findings.push(Finding::new(
                "(all files)",
                0,
                format!("{name}: {} lines, above {max}", at(percent)),
            ));
        }
    }
    findings
}

struct Functions<'a> {
    source: &'a Source,
    findings: &'a mut Vec<Finding>,
}

impl Functions<'_> {
    fn judge(&mut self, name: &syn::Ident, block: &syn::Block) {
        let (start, end) = (
            block.brace_token.span.open().start().line,
            block.brace_token.span.close().end().line,
        );
        let lines = end + 1 - start;
        if lines > FUNCTION_MAX {
            let what = format!("{name} has {lines} lines; a function has at most {FUNCTION_MAX}");
            self.findings.push(Finding::new(&self.source.path, start, what));
        }
    }
}

impl<'ast> Visit<'ast> for Functions<'_> {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.judge(&item.sig.ident, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.judge(&item.sig.ident, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.judge(&item.sig.ident, block);
        }
        visit::visit_trait_item_fn(self, item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_long_functions_wherever_they_are() {
        let body = "    let _ = 1;\n".repeat(69);
        let long = format!("struct S;\nimpl S {{\n    fn long() {{\n{body}    }}\n    fn short() {{}}\n}}\n");
        let findings = check(&Tree::of("x.rs", &long));
        assert_eq!(findings.len(), 1);
        assert!(findings[0].what.starts_with("long has 71 lines"), "{findings:?}");
        assert_eq!(findings[0].line, 3);
    }

    #[test]
    fn finds_long_files() {
        let text = "//\n".repeat(1001);
        assert!(
            check(&Tree::of("x.rs", &text))
                .iter()
                .any(|finding| finding.what.starts_with("1001 lines"))
        );
    }

    #[test]
    fn judges_the_spread() {
        assert!(spread(&[10, 100, 200]).is_empty());
        assert_eq!(spread(&[10, 250, 300]).len(), 1);
        assert_eq!(spread(&[10, 250, 600]).len(), 2);
    }
}
