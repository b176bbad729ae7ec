//! Which release this is, and of which commit: what `--version` says, and what each side of a migration tells the other.

/// As `0.1.0+1a2b3c4d`: the version, and the commit that it was built from, with `.dirty` where files had been changed. A build for
/// debugging says `debug` instead, and one whose commit nobody knows has nothing there.
pub const VERSION: &str = env!("WHIMBREL_VERSION");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_fits_into_a_greeting() {
        assert!(VERSION.starts_with(env!("CARGO_PKG_VERSION")), "{VERSION}");
        assert!(VERSION.len() <= 20 && VERSION.is_ascii(), "{VERSION}");
    }
}
