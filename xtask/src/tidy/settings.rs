//! Every key of the engine's configuration file explained, in the code and in the file that shows them all.

use syn::visit::{self, Visit};

use super::Finding;
use super::source::{Source, Tree};

/// Where the engine's configuration is read.
const READER: &str = "storage-engine/engine/src/config";
/// The file that shows and explains every key.
const PAGE: &str = "storage-engine/engine/src/config/default.toml";

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let page = tree
        .pages
        .iter()
        .find(|(path, _)| path == PAGE)
        .map(|(_, text)| text.as_str());
    let files = tree.sources.iter().filter(|source| source.path.starts_with(READER));
    files.flat_map(|source| one(source, page.unwrap_or_default())).collect()
}

fn one(source: &Source, page: &str) -> Vec<Finding> {
    let mut keys = Keys {
        source,
        page,
        findings: Vec::new(),
    };
    keys.visit_file(&source.ast);
    keys.findings
}

struct Keys<'a> {
    source: &'a Source,
    page: &'a str,
    findings: Vec<Finding>,
}

impl<'ast> Visit<'ast> for Keys<'_> {
    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        if !derives_deserialize(&item.attrs) {
            return;
        }
        if !has(&item.attrs, "serde", "deny_unknown_fields") {
            let line = item.ident.span().start().line;
            self.findings.push(Finding::new(
                &self.source.path,
                line,
                format!("{} takes unknown keys", item.ident),
            ));
        }
        for field in &item.fields {
            let Some(key) = &field.ident else { continue };
            let line = key.span().start().line;
            if !field.attrs.iter().any(|attribute| attribute.path().is_ident("doc")) {
                self.findings.push(Finding::new(
                    &self.source.path,
                    line,
                    format!("the key {key} is not explained"),
                ));
            }
            if !shows(self.page, &key.to_string()) {
                let what = format!("the key {key} is not in {PAGE}");
                self.findings.push(Finding::new(&self.source.path, line, what));
            }
        }
        visit::visit_item_struct(self, item);
    }
}

/// Whether the page shows the key, as a value or as a section, commented out or not.
fn shows(page: &str, key: &str) -> bool {
    page.lines()
        .map(|line| line.trim_start_matches('#').trim())
        .any(|line| {
            let value = line
                .strip_prefix(key)
                .is_some_and(|rest| rest.trim_start().starts_with('='));
            let section = line.trim_start_matches('[').trim_end_matches(']');
            value || (line.starts_with('[') && section.rsplit('.').next() == Some(key))
        })
}

fn derives_deserialize(attributes: &[syn::Attribute]) -> bool {
    has(attributes, "derive", "Deserialize")
}

fn has(attributes: &[syn::Attribute], name: &str, word: &str) -> bool {
    attributes.iter().any(|attribute| {
        let syn::Meta::List(list) = &attribute.meta else {
            return false;
        };
        list.path.is_ident(name) && list.tokens.to_string().contains(word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_nobody_explained_is_found() {
        let text = "#[derive(Deserialize)]\n#[serde(deny_unknown_fields)]\nstruct C {\n    /// The name.\n    name: String,\n    \
                    speed: u32,\n}\n";
        let mut tree = Tree::of("storage-engine/engine/src/config.rs", text);
        tree.pages
            .push((PAGE.to_owned(), "# The node's name.\nname = \"a\"\n".to_owned()));
        let found: Vec<String> = check(&tree).into_iter().map(|finding| finding.what).collect();
        assert_eq!(
            found,
            [
                "the key speed is not explained",
                "the key speed is not in storage-engine/engine/src/config/default.toml"
            ]
        );
    }

    #[test]
    fn a_table_that_takes_anything_is_found() {
        let tree = Tree::of(
            "storage-engine/engine/src/config.rs",
            "#[derive(Deserialize)]\nstruct C {}\n",
        );
        assert_eq!(check(&tree).len(), 1);
    }
}
