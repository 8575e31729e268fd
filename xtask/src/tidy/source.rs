//! The files of the tree, parsed once for all rules.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use cairn_tests::Tool;

/// A Rust file.
pub(super) struct Source {
    /// Relative to the root, with slashes.
    pub(super) path: String,
    /// As it is.
    pub(super) text: String,
    /// As the compiler sees it.
    pub(super) ast: syn::File,
}

/// A manifest of a package.
#[derive(Debug)]
pub(super) struct Manifest {
    /// Relative to the root, with slashes.
    pub(super) path: String,
    /// As it is.
    pub(super) text: String,
}

/// All files that rules look at.
#[derive(Default)]
pub(super) struct Tree {
    /// Rust.
    pub(super) sources: Vec<Source>,
    /// `Cargo.toml`.
    pub(super) manifests: Vec<Manifest>,
    /// The pages for people.
    pub(super) pages: Vec<(String, String)>,
}

impl Tree {
    /// Reads what git knows or would know: tracked files and new ones that are not ignored.
    pub(super) fn read(root: &Path) -> Result<Self> {
        let args = ["ls-files", "--cached", "--others", "--exclude-standard"];
        let listed = Tool::new("git").args(args).dir(root).ok()?.stdout;
        let mut tree = Self::default();
        for path in listed.lines() {
            let is_manifest = path.ends_with("Cargo.toml");
            let is_page = path.ends_with(".md") || path.ends_with("default.toml");
            let is_rust = path.ends_with(".rs");
            // A tracked file may have been removed and not committed yet.
            if !(is_manifest || is_page || is_rust) || !root.join(path).is_file() {
                continue;
            }
            let text = fs::read_to_string(root.join(path)).with_context(|| path.to_owned())?;
            if is_rust {
                tree.sources.push(Source::parse(path, &text)?);
            } else if is_manifest {
                tree.manifests.push(Manifest {
                    path: path.to_owned(),
                    text,
                });
            } else {
                tree.pages.push((path.to_owned(), text));
            }
        }
        Ok(tree)
    }

    /// A tree of one Rust file, for the rules' own tests.
    #[cfg(test)]
    pub(super) fn of(path: &str, text: &str) -> Self {
        Self {
            sources: vec![Source::parse(path, text).unwrap()],
            ..Self::default()
        }
    }
}

impl Source {
    fn parse(path: &str, text: &str) -> Result<Self> {
        let ast = syn::parse_file(text).with_context(|| format!("{path} does not parse"))?;
        Ok(Self {
            path: path.to_owned(),
            text: text.to_owned(),
            ast,
        })
    }

    /// Whether the file belongs to the package in `dir`.
    pub(super) fn is_below(&self, dir: &str) -> bool {
        self.path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'))
    }

    /// Whether this is the first file of a library or a program.
    pub(super) fn is_crate_root(&self) -> bool {
        self.path.ends_with("src/lib.rs") || self.path.ends_with("src/main.rs") || self.path.contains("/src/bin/")
    }
}

/// Whether an item is there for tests only.
pub(super) fn is_test_only(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let syn::Meta::List(list) = &attribute.meta else {
            return false;
        };
        list.path.is_ident("cfg") && list.tokens.to_string().contains("test")
    })
}
