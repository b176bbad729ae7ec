use std::collections::{BTreeMap, BTreeSet, HashMap};

use syn::{Attribute, Item, Meta, UseTree, spanned::Spanned, visit::Visit};

use crate::source::{SourceFile, parsed, sources};

/// Which of a crate's modules name which, by their paths from the crate's root. What only tests name is left out.
#[derive(Debug)]
pub struct Modules {
    modules: BTreeMap<Path, Module>,
}

/// One mention of another module.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mention {
    /// The module that names, as `a::b`.
    pub from: String,
    /// The module in which what is named is defined.
    pub to: String,
    /// Where, as `file:line`.
    pub place: String,
}

type Path = Vec<String>;

#[derive(Debug, Default)]
struct Module {
    file: String,
    /// What `use` brings in, by the name it has here.
    imports: HashMap<String, Path>,
    named: Vec<(usize, Path)>,
}

/// More steps than from one import to the next are a circle of imports, which no crate that builds has.
const MAX_STEPS: usize = 32;

impl Modules {
    /// The modules of the crate whose sources are in `folder`, a path from the root of the repository.
    ///
    /// # Panics
    /// A file cannot be read, or is not Rust.
    #[must_use]
    pub fn of(folder: &str) -> Self {
        Self::from_files(folder, sources(folder))
    }

    fn from_files(folder: &str, files: Vec<SourceFile>) -> Self {
        let read: Vec<_> = files
            .into_iter()
            .filter_map(|file| Some((module_path(folder, &file.path)?, Reader::read(&file), file.path)))
            .collect();
        let tests: BTreeSet<Path> = read
            .iter()
            .flat_map(|(path, reader, _)| reader.tests.iter().map(|test| child(path, test)))
            .collect();
        let is_test = |path: &Path| (0..=path.len()).any(|length| tests.contains(&path[..length]));
        let modules = read.into_iter().filter(|(path, ..)| !is_test(path)).map(|(path, reader, file)| {
            (path, Module { file, imports: reader.imports, named: reader.named })
        });
        Self { modules: modules.collect() }
    }

    /// Groups of modules with the same parent that need each other, each with the mentions that make it so.
    #[must_use]
    pub fn circles(&self) -> Vec<(Vec<String>, Vec<Mention>)> {
        let mut below: BTreeMap<Path, BTreeMap<(String, String), BTreeSet<Mention>>> = BTreeMap::new();
        for (from, to, mention) in self.mentions() {
            let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
            if let (Some(one), Some(other)) = (from.get(common), to.get(common)) {
                let arrows = below.entry(from[..common].to_vec()).or_default();
                arrows.entry((one.clone(), other.clone())).or_default().insert(mention);
            }
        }
        below.iter().flat_map(|(parent, arrows)| circles_among(parent, arrows)).collect()
    }

    fn mentions(&self) -> Vec<(Path, Path, Mention)> {
        let mut found = Vec::new();
        for (from, module) in &self.modules {
            for (line, named) in module.named.iter() {
                let Some(to) = self.resolve(from, named, MAX_STEPS).filter(|to| to != from) else { continue };
                let place = format!("{}:{line}", module.file);
                let mention = Mention { from: from.join("::"), to: to.join("::"), place };
                found.push((from.clone(), to, mention));
            }
        }
        found
    }

    /// The module in which what `path` names in `module` is defined; `None` if that is not in this crate.
    fn resolve(&self, module: &Path, path: &[String], steps: usize) -> Option<Path> {
        let steps = steps.checked_sub(1)?;
        let (first, mut rest) = path.split_first()?;
        let mut at = match first.as_str() {
            "crate" => Vec::new(),
            "self" => module.clone(),
            "super" => module.split_last()?.1.to_vec(),
            name => self.step(module, name, steps)?,
        };
        while let Some((name, left)) = rest.split_first() {
            if name == "super" {
                at.pop()?;
            } else {
                match self.step(&at, name, steps) {
                    Some(next) => at = next,
                    // Defined here, or by what it is named in: an item, a variant, a constant.
                    None => break,
                }
            }
            rest = left;
        }
        Some(at)
    }

    fn step(&self, at: &Path, name: &str, steps: usize) -> Option<Path> {
        let below = child(at, name);
        if self.modules.contains_key(&below) {
            return Some(below);
        }
        self.resolve(at, self.modules.get(at)?.imports.get(name)?, steps)
    }
}

fn child(parent: &[String], name: &str) -> Path {
    let mut path = parent.to_vec();
    path.push(name.to_owned());
    path
}

/// The module that a file is; `None` for a program beside a library.
fn module_path(folder: &str, file: &str) -> Option<Path> {
    let inside = file.strip_prefix(folder)?.strip_prefix('/')?.strip_suffix(".rs")?;
    let mut path: Path = inside.split('/').map(str::to_owned).collect();
    match path.last()?.as_str() {
        "bin" => None,
        "lib" | "mod" => path.pop().map(|_| path),
        "main" if path.len() == 1 => Some(Vec::new()),
        _ => Some(path),
    }
}

type Arrows = BTreeMap<(String, String), BTreeSet<Mention>>;

fn circles_among(parent: &[String], arrows: &Arrows) -> Vec<(Vec<String>, Vec<Mention>)> {
    let reach = |from: &String| {
        let mut reached: BTreeSet<&String> = BTreeSet::new();
        let mut open = vec![from];
        while let Some(at) = open.pop() {
            for (_, to) in arrows.keys().filter(|(one, _)| one == at) {
                if reached.insert(to) {
                    open.push(to);
                }
            }
        }
        reached
    };
    let all: BTreeSet<&String> = arrows.keys().map(|(from, _)| from).collect();
    let mut circles: BTreeSet<Vec<&String>> = BTreeSet::new();
    for one in &all {
        let circle: Vec<_> = all
            .iter()
            .copied()
            .filter(|other| reach(one).contains(other) && reach(other).contains(one))
            .collect();
        if circle.len() > 1 {
            circles.insert(circle);
        }
    }
    let described = |circle: Vec<&String>| {
        let inside = |(from, to): &(String, String)| circle.contains(&from) && circle.contains(&to);
        let mentions = arrows.iter().filter(|(arrow, _)| inside(arrow));
        let names = circle.iter().map(|name| child(parent, name).join("::")).collect();
        (names, mentions.flat_map(|(_, mentions)| mentions.first().cloned()).collect())
    };
    circles.into_iter().map(described).collect()
}

/// Reads a module's own code, without the modules in it.
#[derive(Default)]
struct Reader {
    imports: HashMap<String, Path>,
    named: Vec<(usize, Path)>,
    tests: Vec<String>,
}

impl Reader {
    fn read(file: &SourceFile) -> Self {
        let mut reader = Self::default();
        let parsed = parsed(file);
        reader.visit_file(&parsed);
        for item in &parsed.items {
            if let Item::Use(item) = item
                && !is_for_tests(&item.attrs)
            {
                reader.import(&[], &item.tree);
            }
        }
        reader
    }

    fn import(&mut self, prefix: &[String], tree: &UseTree) {
        let line = tree.span().start().line;
        match tree {
            UseTree::Path(path) => self.import(&child(prefix, &path.ident.to_string()), &path.tree),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.import(prefix, tree)),
            UseTree::Glob(_) => self.named.push((line, prefix.to_vec())),
            UseTree::Name(name) if name.ident == "self" => {
                self.bring_in(line, prefix.last().cloned(), prefix.to_vec());
            }
            UseTree::Name(name) => {
                let name = name.ident.to_string();
                self.bring_in(line, Some(name.clone()), child(prefix, &name));
            }
            UseTree::Rename(rename) => {
                let path = child(prefix, &rename.ident.to_string());
                self.bring_in(line, Some(rename.rename.to_string()), path);
            }
        }
    }

    fn bring_in(&mut self, line: usize, name: Option<String>, path: Path) {
        self.named.push((line, path.clone()));
        self.imports.extend(name.map(|name| (name, path)));
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item_use(&mut self, _: &'ast syn::ItemUse) {}

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if is_for_tests(&item.attrs) {
            self.tests.push(item.ident.to_string());
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        if !is_for_tests(&item.attrs) {
            syn::visit::visit_item_fn(self, item);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let words: Path = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if words.len() > 1 {
            self.named.push((path.span().start().line, words));
        }
        syn::visit::visit_path(self, path);
    }
}

fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) if list.path.is_ident("cfg") => list.tokens.to_string() == "test",
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn circles(files: &[(&str, &str)]) -> Vec<Vec<String>> {
        let file =
            |&(path, text): &(&str, &str)| SourceFile { path: format!("src/{path}"), text: text.to_owned() };
        let modules = Modules::from_files("src", files.iter().map(file).collect());
        modules.circles().into_iter().map(|(names, _)| names).collect()
    }

    #[test]
    fn modules_that_import_each_other_are_a_circle() {
        let files = [("lib.rs", "mod a; mod b;"), ("a.rs", "use crate::b::B;"), ("b.rs", "use super::a;")];
        assert_eq!(circles(&files), [["a", "b"]]);
    }

    #[test]
    fn a_circle_over_three_modules_by_paths_in_code_is_found() {
        let files = [
            ("m/mod.rs", "mod a; mod b; mod c;"),
            ("m/a.rs", "fn f() { super::b::g() }"),
            ("m/b.rs", "fn g(c: super::c::C) {}"),
            ("m/c/mod.rs", "mod d;"),
            ("m/c/d.rs", "use crate::m::{a::{self, f}};"),
        ];
        assert_eq!(circles(&files), [["m::a", "m::b", "m::c"]]);
    }

    #[test]
    fn what_a_parent_passes_on_is_its_childs() {
        let files =
            [("lib.rs", "mod a; mod b; pub use a::A;"), ("a.rs", "use crate::b;"), ("b.rs", "use crate::A;")];
        assert_eq!(circles(&files), [["a", "b"]]);
    }

    #[test]
    fn parents_children_other_crates_and_tests_are_no_circle() {
        let files = [
            ("lib.rs", "mod a; mod b; #[cfg(test)] mod c; use a::A; struct S;"),
            (
                "a.rs",
                "use crate::S; use b::B as Other; fn f() -> b::C {} #[cfg(test)] mod tests { use crate::b; }",
            ),
            ("b.rs", "use super::a::A;"),
            ("c.rs", "use super::{a, b};"),
        ];
        assert!(circles(&files).is_empty());
    }
}
