//! Takes the files of the built console into the program, if it was built. Nothing here needs node, so that a build without it works too.

use std::{
    env,
    fmt::Write,
    fs, io,
    path::{Path, PathBuf},
};

fn main() -> io::Result<()> {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("Cargo sets CARGO_MANIFEST_DIR"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("Cargo sets OUT_DIR"));
    // The folder is always there, so that Cargo can see that nothing in it has changed.
    let built = fs::canonicalize(here.join("../../console/dist"))?;
    println!("cargo:rerun-if-changed={}", built.display());
    println!("cargo:rerun-if-changed=build.rs");
    let mut found = Vec::new();
    if built.join("index.html").is_file() {
        look(&built, &mut found)?;
    } else {
        found.push(("index.html".to_owned(), here.join("src/placeholder.html")));
    }
    found.sort();
    let mut table = String::from("&[\n");
    for (name, path) in found {
        writeln!(table, "    ({name:?}, include_bytes!({path:?})),").map_err(io::Error::other)?;
    }
    table.push(']');
    fs::write(out.join("files.rs"), table)
}

/// All files below a folder, by their names as addresses have them.
fn look(folder: &Path, found: &mut Vec<(String, PathBuf)>) -> io::Result<()> {
    let mut folders = vec![(String::new(), folder.to_owned())];
    while let Some((prefix, folder)) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name =
                entry.file_name().into_string().map_err(|_| io::Error::other("a name is not UTF-8"))?;
            if name.starts_with('.') {
                continue;
            }
            let name = format!("{prefix}{name}");
            if entry.file_type()?.is_dir() {
                folders.push((format!("{name}/"), entry.path()));
            } else {
                found.push((name, entry.path()));
            }
        }
    }
    Ok(())
}
