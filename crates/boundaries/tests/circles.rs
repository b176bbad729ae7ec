//! Inside a crate, what modules know of each other goes one way too.

use std::fs;

use boundaries::{Modules, root};

/// Modules with one parent that need each other, each with the reason.
const CIRCLES: &[(&str, &[&str], &str)] = &[
    (
        "crates/config/src",
        &["error", "mac", "net", "options", "path", "text"],
        "what a field may be stands with its type, and the error of all fields says it",
    ),
    ("crates/faults/src", &["carrier", "proxy"], "a carrier carries for the proxy that started it"),
    (
        "crates/faults/src",
        &["fault", "frames", "place", "trace"],
        "a fault is known by the place where it strikes, which is known by the frames that passed",
    ),
    (
        "crates/monitor/src",
        &["commands", "human"],
        "a line for people is a command, and there is a command for a line of people",
    ),
    (
        "crates/wire/src",
        &["control", "header", "missing", "pages"],
        "a header bounds its payload by what kind of payload it is",
    ),
];

#[test]
fn modules_with_one_parent_do_not_need_each_other() {
    let mut wrong = Vec::new();
    let mut excused = Vec::new();
    for folder in folders() {
        for (names, mentions) in Modules::of(&folder).circles() {
            let excuse = CIRCLES.iter().position(|(of, circle, _)| *of == folder && *circle == names);
            match excuse {
                Some(index) => excused.push(index),
                None => {
                    let arrows = mentions.iter().map(|mention| {
                        format!("\n    {}: `{}` names `{}`", mention.place, mention.from, mention.to)
                    });
                    wrong.push(format!("{folder}: {}{}", names.join(", "), arrows.collect::<String>()));
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "these need each other. Give what both need a module of its own, or add them to CIRCLES in {} with the reason:\n{}",
        file!(),
        wrong.join("\n")
    );
    let left: Vec<_> = CIRCLES.iter().enumerate().filter(|(index, _)| !excused.contains(index)).collect();
    assert!(left.is_empty(), "no circles any more, take them off CIRCLES in {}: {left:#?}", file!());
}

/// The sources of every crate, as paths from the root.
fn folders() -> Vec<String> {
    let crates = fs::read_dir(root().join("crates")).expect("the repository can be read");
    let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    let mut folders: Vec<_> = crates
        .map(|entry| format!("crates/{}/src", name(entry.expect("the repository can be read"))))
        .collect();
    folders.extend(["lab/src", "lab/agent/src"].map(str::to_owned));
    folders.sort();
    folders
}
