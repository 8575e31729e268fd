//! A core without clock, thread, socket or file: what a crate must not name, outside its tests.

use syn::visit::{self, Visit};

use super::Finding;
use super::source::{Source, Tree, is_test_only};

/// What neither the core nor the formats may touch: it would make them depend on more than their input.
const OUTSIDE_WORLD: [&str; 8] = [
    "std::time::Instant",
    "std::time::SystemTime",
    "std::thread",
    "std::net",
    "std::fs",
    "std::process",
    "std::os",
    "tokio",
];
/// What a frontend must not touch either. It reads its certificates itself.
const TRANSPORT: [&str; 5] = [
    "std::time::Instant",
    "std::time::SystemTime",
    "std::thread",
    "std::net",
    "tokio",
];
/// Their order differs from run to run, and a replay would differ with it.
const UNORDERED: [&str; 3] = [
    "std::collections::HashMap",
    "std::collections::HashSet",
    "std::hash::RandomState",
];

/// Crates, by their folder, and what each must not name.
const BANS: [(&str, &[&[&str]]); 3] = [
    ("storage-engine/core/src", &[&OUTSIDE_WORLD, &UNORDERED]),
    ("storage-engine/format/src", &[&OUTSIDE_WORLD, &UNORDERED]),
    ("storage-engine/frontends/nbd/src", &[&TRANSPORT]),
];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    tree.sources.iter().flat_map(one).collect()
}

fn one(source: &Source) -> Vec<Finding> {
    let lists = BANS
        .iter()
        .filter(|(dir, _)| source.is_below(dir))
        .flat_map(|(_, lists)| *lists);
    let banned: Vec<&str> = lists.flat_map(|list| list.iter().copied()).collect();
    let is_test_file = source.path.ends_with("/tests.rs") || source.path.contains("/tests/");
    if banned.is_empty() || is_test_file {
        return Vec::new();
    }
    let mut names = Names(Vec::new());
    names.visit_file(&source.ast);
    let hits = |name: &str| {
        banned
            .iter()
            .find(|ban| name == **ban || name.starts_with(&format!("{ban}::")))
            .copied()
    };
    let finding = |(line, name): (usize, String)| {
        hits(&name).map(|ban| Finding::new(&source.path, line, format!("{ban} is banned in this crate")))
    };
    names.0.into_iter().filter_map(finding).collect()
}

/// Every path that the file names, with `use` trees written out, leaving out what is for tests only.
struct Names(Vec<(usize, String)>);

impl Names {
    fn flatten(&mut self, prefix: &str, tree: &syn::UseTree) {
        let join = |ident: &syn::Ident| {
            if prefix.is_empty() {
                ident.to_string()
            } else {
                format!("{prefix}::{ident}")
            }
        };
        match tree {
            syn::UseTree::Path(path) => self.flatten(&join(&path.ident), &path.tree),
            syn::UseTree::Name(name) => self.0.push((name.ident.span().start().line, join(&name.ident))),
            syn::UseTree::Rename(name) => self.0.push((name.ident.span().start().line, join(&name.ident))),
            syn::UseTree::Glob(glob) => self
                .0
                .push((glob.star_token.spans[0].start().line, format!("{prefix}::*"))),
            syn::UseTree::Group(group) => group.items.iter().for_each(|item| self.flatten(prefix, item)),
        }
    }
}

impl<'ast> Visit<'ast> for Names {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_test_only(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if !is_test_only(&item.attrs) {
            self.flatten("", &item.tree);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let name: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        let line = path
            .segments
            .first()
            .map_or(0, |segment| segment.ident.span().start().line);
        self.0.push((line, name.join("::")));
        visit::visit_path(self, path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_clocks_and_unordered_maps_in_the_core() {
        let bad = "use std::{collections::{BTreeMap, HashMap}, time::{Duration, Instant}};\n\
                   fn f() { std::thread::sleep(d); }\nuse tokio::sync::mpsc;\n";
        let found: Vec<usize> = check(&Tree::of("storage-engine/core/src/x.rs", bad))
            .iter()
            .map(|finding| finding.line)
            .collect();
        assert_eq!(found, [1, 1, 2, 3]);
        assert!(check(&Tree::of("storage-engine/engine/src/x.rs", bad)).is_empty());
    }

    #[test]
    fn leaves_tests_alone() {
        let text = "#[cfg(test)]\nmod tests {\n    use std::collections::HashMap;\n}\n";
        assert!(check(&Tree::of("storage-engine/core/src/x.rs", text)).is_empty());
    }
}
