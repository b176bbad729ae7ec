use std::{
    fs,
    path::{Path, PathBuf},
};

use proc_macro2::{TokenStream, TokenTree};
use syn::{UseTree, spanned::Spanned, visit::Visit};

/// One file of Rust source in the repository.
#[derive(Debug)]
pub struct SourceFile {
    /// Path from the root of the repository, with `/`.
    pub path: String,
    /// Its text.
    pub text: String,
}

/// The root of the repository whose tests run.
#[must_use]
pub fn root() -> PathBuf {
    // Asked when it runs: two checkouts that share a target directory share what was built, and with it what `env!` says.
    let here = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    // This crate lies two folders below the root.
    Path::new(&here).join("../..")
}

/// All files below `folder` (a path from the root) whose name ends in `.rs`, in the order of their paths. A folder that does
/// not exist has none; folders called `target` are left out.
///
/// # Panics
/// A file cannot be read or is not UTF-8: there is nothing to check then.
#[must_use]
pub fn sources(folder: &str) -> Vec<SourceFile> {
    let mut found = Vec::new();
    collect(&root().join(folder), folder, &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn collect(folder: &Path, name: &str, found: &mut Vec<SourceFile>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.map(|entry| entry.expect("the repository can be read")) {
        let (path, file) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        let name = format!("{name}/{file}");
        if path.is_dir() && file != "target" {
            collect(&path, &name, found);
        } else if file.ends_with(".rs") {
            let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
            found.push(SourceFile { path: name, text });
        }
    }
}

/// Every path that the file names, with its line: `use` trees written out, and paths in code, types and macros.
///
/// # Panics
/// The file is not Rust.
#[must_use]
pub fn named_paths(file: &SourceFile) -> Vec<(usize, String)> {
    let mut paths = Paths { found: Vec::new() };
    paths.visit_file(&parsed(file));
    paths.found
}

/// The lines with the keyword `unsafe`.
///
/// # Panics
/// The file is not Rust.
#[must_use]
pub fn unsafe_lines(file: &SourceFile) -> Vec<usize> {
    fn search(tokens: TokenStream, lines: &mut Vec<usize>) {
        for token in tokens {
            match token {
                TokenTree::Group(group) => search(group.stream(), lines),
                TokenTree::Ident(word) if word == "unsafe" => lines.push(word.span().start().line),
                _ => {}
            }
        }
    }
    let mut lines = Vec::new();
    let tokens = file.text.parse().unwrap_or_else(|error| panic!("{}: {error}", file.path));
    search(tokens, &mut lines);
    lines
}

pub(crate) fn parsed(file: &SourceFile) -> syn::File {
    syn::parse_file(&file.text).unwrap_or_else(|error| panic!("{}: {error}", file.path))
}

struct Paths {
    found: Vec<(usize, String)>,
}

impl Paths {
    fn add_use(&mut self, prefix: &str, tree: &UseTree) {
        let line = tree.span().start().line;
        match tree {
            UseTree::Path(path) => self.add_use(&format!("{prefix}{}::", path.ident), &path.tree),
            UseTree::Name(name) => self.found.push((line, format!("{prefix}{}", name.ident))),
            UseTree::Rename(rename) => self.found.push((line, format!("{prefix}{}", rename.ident))),
            UseTree::Glob(_) => self.found.push((line, format!("{prefix}*"))),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.add_use(prefix, tree)),
        }
    }
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.add_use("", &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let words: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.found.push((path.span().start().line, words.join("::")));
        syn::visit::visit_path(self, path);
    }

    /// What a macro is given is not parsed: its words are put together where `::` stands between them.
    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        let mut words = String::new();
        let mut line = 0;
        let mut tokens: Vec<TokenTree> = flattened(item.tokens.clone());
        tokens.reverse();
        while let Some(token) = tokens.pop() {
            match token {
                TokenTree::Ident(word) if words.is_empty() || words.ends_with("::") => {
                    line = word.span().start().line;
                    words += &word.to_string();
                }
                TokenTree::Punct(mark) if mark.as_char() == ':' && !words.is_empty() => words.push(':'),
                other => {
                    if words.contains("::") {
                        self.found.push((line, std::mem::take(&mut words)));
                    }
                    words.clear();
                    if let TokenTree::Ident(word) = other {
                        words = word.to_string();
                    }
                }
            }
        }
        if words.contains("::") {
            self.found.push((line, words));
        }
        syn::visit::visit_macro(self, item);
    }
}

fn flattened(tokens: TokenStream) -> Vec<TokenTree> {
    let flatten = |token| match token {
        TokenTree::Group(group) => flattened(group.stream()),
        other => vec![other],
    };
    tokens.into_iter().flat_map(flatten).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> SourceFile {
        SourceFile { path: "test.rs".into(), text: text.into() }
    }

    fn names(text: &str) -> Vec<String> {
        named_paths(&file(text)).into_iter().map(|(_, path)| path).collect()
    }

    #[test]
    fn grouped_and_renamed_imports_are_written_out() {
        let found = names("use std::{fmt, net::{TcpStream as Wire, *}, time::Instant};");
        assert_eq!(found, ["std::fmt", "std::net::TcpStream", "std::net::*", "std::time::Instant"]);
    }

    #[test]
    fn paths_in_code_types_and_macros_are_found() {
        for text in [
            "fn f() { std::thread::sleep(x) }",
            "fn f(x: Option<std::thread::Thread>) {}",
            "fn f() { println!(\"{}\", std::thread::current()) }",
            "fn f() { assert!(g(vec![std::thread::current()])) }",
        ] {
            assert!(names(text).iter().any(|path| path.starts_with("std::thread::")), "{text}");
        }
    }

    #[test]
    fn comments_and_strings_name_nothing() {
        let text = "// std::thread unsafe\nconst A: &str = \"std::thread unsafe\";";
        assert!(names(text).iter().all(|path| !path.contains("thread")));
        assert!(unsafe_lines(&file(text)).is_empty());
    }

    #[test]
    fn unsafe_is_found_with_its_line() {
        assert_eq!(unsafe_lines(&file("fn f() {\n    unsafe { g() }\n}\nunsafe impl Send for A {}")), [2, 4]);
    }
}
