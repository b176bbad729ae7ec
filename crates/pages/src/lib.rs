//! The console as files. `console/` is its source; `scripts/console build` makes `console/dist`, and the build script takes what is there.

/// Files by their path below the console's address. A file whose name ends in `.gz` is the one without it, compressed. There is always an
/// `index.html`; where the console was not built, it says how to get it.
pub const FILES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/files.rs"));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_first_page() {
        let index = FILES.iter().find(|(name, _)| *name == "index.html").expect("there is an index.html");
        assert!(String::from_utf8_lossy(index.1).contains("<title>Whimbrel</title>"));
    }
}
