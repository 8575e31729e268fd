//! Imports that point one way: binaries, then drivers, then the core, then the formats, then the vocabulary.

use super::Finding;
use super::source::{Manifest, Tree};

/// The crates from the bottom up. A crate may depend on crates of lower rows only.
const LAYERS: [&[&str]; 7] = [
    &["cairn-api", "cairn-history"],
    &["cairn-format", "cairn-crypto"],
    &["cairn-core"],
    &["cairn-reactor", "cairn-nbd", "cairn-sim", "cairn-benches"],
    &["cairn-engine", "cairn-cli"],
    &["cairn-tests"],
    &["xtask"],
];

/// The suites see the engine from outside, as a user does; to link it would be to trust what they judge. What judges may
/// be linked.
const STAND_ALONE: [&str; 1] = ["cairn-tests"];
const JUDGES: [&str; 1] = ["cairn-history"];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    tree.manifests.iter().flat_map(one).collect()
}

fn one(manifest: &Manifest) -> Vec<Finding> {
    let Some(name) = package_name(&manifest.text) else {
        return Vec::new();
    };
    // A fuzz crate stands beside the crate that it fuzzes.
    if manifest.path.ends_with("/fuzz/Cargo.toml") {
        return Vec::new();
    }
    let Some(own) = layer(&name) else {
        return vec![Finding::new(
            &manifest.path,
            1,
            format!("{name} has no place in the layers of the tidy rule"),
        )];
    };
    let mut findings = Vec::new();
    for (line, dependency) in dependencies(&manifest.text) {
        let Some(theirs) = layer(&dependency) else { continue };
        if theirs >= own {
            findings.push(Finding::new(
                &manifest.path,
                line,
                format!("{name} must not depend on {dependency}"),
            ));
        } else if STAND_ALONE.contains(&name.as_str()) && !JUDGES.contains(&dependency.as_str()) {
            findings.push(Finding::new(
                &manifest.path,
                line,
                format!("{name} must not link {dependency}"),
            ));
        }
    }
    findings
}

fn layer(name: &str) -> Option<usize> {
    LAYERS.iter().position(|row| row.contains(&name))
}

fn package_name(text: &str) -> Option<String> {
    let mut lines = text.lines().skip_while(|line| line.trim() != "[package]");
    let value = lines.find_map(|line| line.trim().strip_prefix("name = "))?;
    Some(value.trim_matches('"').to_owned())
}

/// The dependencies of a manifest, of all kinds, with their lines.
fn dependencies(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut inside = false;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(section) = line.strip_prefix('[') {
            let section = section.trim_end_matches(']');
            let (parent, table) = section.rsplit_once('.').unwrap_or(("", section));
            inside = table.ends_with("dependencies");
            if parent.ends_with("dependencies") {
                found.push((index + 1, table.to_owned()));
            }
        } else if inside && !line.starts_with('#') {
            let name = line.split(['=', '.', ' ']).next().unwrap_or_default();
            if !name.is_empty() {
                found.push((index + 1, name.to_owned()));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(name: &str, rest: &str) -> Vec<Finding> {
        one(&Manifest {
            path: "x/Cargo.toml".to_owned(),
            text: format!("[package]\nname = \"{name}\"\n{rest}"),
        })
    }

    #[test]
    fn an_arrow_upwards_is_a_defect() {
        assert_eq!(
            manifest("cairn-format", "[dependencies]\ncairn-core.workspace = true\n").len(),
            1
        );
        assert_eq!(
            manifest("cairn-core", "[dev-dependencies]\ncairn-reactor = { path = \"..\" }\n").len(),
            1
        );
        assert_eq!(
            manifest("cairn-nbd", "[dependencies.cairn-reactor]\nworkspace = true\n").len(),
            1
        );
        assert!(
            manifest(
                "cairn-engine",
                "[dependencies]\ncairn-core.workspace = true\nserde = \"1\"\n"
            )
            .is_empty()
        );
    }

    #[test]
    fn the_suites_link_nothing_of_what_they_judge() {
        assert_eq!(
            manifest("cairn-tests", "[dependencies]\ncairn-nbd.workspace = true\n").len(),
            1
        );
    }

    #[test]
    fn a_new_crate_must_find_its_place() {
        assert_eq!(manifest("cairn-new", "").len(), 1);
    }
}
