/// The one of `names` that `typed` was most likely meant to be, if one is near.
pub(crate) fn nearest<'a>(typed: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // What is longer than any name is none with a letter more.
    if typed.len() > LONGEST {
        return None;
    }
    let typed = plain(typed);
    let near =
        names.map(|name| (distance(&typed, &plain(name)), name)).min_by_key(|(distance, _)| *distance)?;
    // Of short names each is near to many.
    (near.0 <= typed.len() / 4).then_some(near.1)
}

const LONGEST: usize = 40;

/// Small letters and digits: people differ in all else.
fn plain(name: &str) -> Vec<u8> {
    name.bytes().filter(u8::is_ascii_alphanumeric).map(|byte| byte.to_ascii_lowercase()).collect()
}

/// How many letters have to be changed, added or left out.
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (index, from) in a.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], index + 1);
        for (column, to) in b.iter().enumerate() {
            let changed = diagonal + usize::from(from != to);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_meant_is_found_and_what_is_far_from_all_is_not() {
        const NAMES: [&str; 6] = ["avx", "avx2", "sse4.2", "avx512f", "Skylake-Server", "EPYC-Rome"];
        let found = |typed| nearest(typed, NAMES.into_iter());
        for (typed, meant) in [
            ("AVX2", "avx2"),
            ("sse42", "sse4.2"),
            ("avx512", "avx512f"),
            ("avx-512f", "avx512f"),
            ("skylake_sever", "Skylake-Server"),
            ("epyc-rom", "EPYC-Rome"),
        ] {
            assert_eq!(found(typed), Some(meant), "{typed}");
        }
        for typed in ["", "vmx", "nonsense", "x", &"avx".repeat(1000)] {
            assert_eq!(found(typed), None, "{typed}");
        }
    }
}
