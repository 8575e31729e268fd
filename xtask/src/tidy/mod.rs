//! The rules of style that no compiler checks, each a small module with a bad sample in its tests.
//!
//! | rule | what it keeps |
//! |---|---|
//! | [`lengths`] | files and functions that fit a reader's head |
//! | [`safety`] | `unsafe` in one crate only, and justified there |
//! | [`banned`] | a core without clock, thread, socket or file |
//! | [`direction`] | imports that point one way |
//! | [`words`] | nothing left for later |
//! | [`headers`] | every file says what it is |
//! | [`settings`] | every configuration key explained |

mod banned;
mod direction;
mod headers;
mod lengths;
mod safety;
mod settings;
mod source;
mod words;

use std::fmt;
use std::path::Path;

use anyhow::{Result, bail};

use source::Tree;

/// Something that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    path: String,
    line: usize,
    what: String,
}

impl Finding {
    fn new(path: &str, line: usize, what: impl Into<String>) -> Self {
        Self {
            path: path.to_owned(),
            line,
            what: what.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}: {}", self.path, self.line, self.what)
    }
}

type Rule = fn(&Tree) -> Vec<Finding>;

const RULES: [Rule; 7] = [
    lengths::check,
    safety::check,
    banned::check,
    direction::check,
    words::check,
    headers::check,
    settings::check,
];

/// Checks the whole tree below `root` and prints what breaks a rule.
pub(crate) fn run(root: &Path) -> Result<()> {
    let tree = Tree::read(root)?;
    let findings = check(&tree);
    for finding in &findings {
        println!("{finding}");
    }
    if !findings.is_empty() {
        bail!("{} findings", findings.len());
    }
    println!("tidy: {} files hold to the rules", tree.sources.len());
    Ok(())
}

fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings: Vec<Finding> = RULES.iter().flat_map(|rule| rule(tree)).collect();
    findings.sort();
    findings
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_tree_holds_to_the_rules() {
        super::run(crate::root()).unwrap();
    }
}
