//! The console's files: anybody may have them, and there is nothing in them but the program. What it shows it reads from the API, as who logs in.

use std::collections::BTreeMap;

/// What a page may do: run its own scripts and show its own pictures, speak to this server, and nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A file that is sent as it is.
#[derive(Clone, Debug)]
pub struct File {
    /// What is in it, compressed if `is_compressed`.
    pub(crate) bytes: &'static [u8],
    /// Its media type.
    pub(crate) media_type: &'static str,
    /// Whether it is sent as gzip.
    pub(crate) is_compressed: bool,
    /// Whether another version of it has another name.
    pub(crate) is_for_ever: bool,
}

impl File {
    /// What is said of it beside its media type.
    pub(crate) fn headers(&self) -> Vec<(&'static str, &'static str)> {
        let mut headers = vec![
            ("content-security-policy", POLICY),
            ("cross-origin-opener-policy", "same-origin"),
            ("cross-origin-resource-policy", "same-origin"),
            ("referrer-policy", "no-referrer"),
            ("vary", "accept-encoding"),
            (
                "cache-control",
                if self.is_for_ever { "public, max-age=31536000, immutable" } else { "no-cache" },
            ),
        ];
        if self.is_compressed {
            headers.push(("content-encoding", "gzip"));
        }
        headers
    }
}

/// Files by path.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pages {
    pub(crate) files: BTreeMap<&'static str, &'static [u8]>,
}

impl Pages {
    /// The file of a path. A path that names none is a view of the console, which the program in the first page shows.
    pub(crate) fn find(&self, path: &str, accepts_gzip: bool) -> Option<File> {
        // Names of machines may have dots: what is below `assets` is a file, or missing.
        let is_file = self.files.contains_key(path) || path.starts_with("assets/");
        let name = if is_file { path } else { "index.html" };
        let (name, plain) = self.files.get_key_value(name)?;
        let compressed = self.files.get(format!("{name}.gz").as_str()).filter(|_| accepts_gzip);
        Some(File {
            bytes: compressed.unwrap_or(plain),
            media_type: media_type(name),
            is_compressed: compressed.is_some(),
            is_for_ever: name.starts_with("assets/"),
        })
    }
}

fn media_type(name: &str) -> &'static str {
    match name.rsplit('.').next().unwrap_or_default() {
        "html" => "text/html; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "svg" => "image/svg+xml",
        "woff2" => "font/woff2",
        "png" => "image/png",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages() -> Pages {
        let files: [(&str, &[u8]); 3] =
            [("index.html", b"first"), ("assets/a-1.js", b"plain"), ("assets/a-1.js.gz", b"packed")];
        Pages { files: files.into_iter().collect() }
    }

    #[test]
    fn a_file_goes_out_compressed_to_those_who_understand_that() {
        let pages = pages();
        let packed = pages.find("assets/a-1.js", true).unwrap();
        assert_eq!(
            (packed.bytes, packed.media_type),
            (b"packed".as_slice(), "text/javascript; charset=utf-8")
        );
        assert!(packed.headers().contains(&("content-encoding", "gzip")));
        assert_eq!(pages.find("assets/a-1.js", false).unwrap().bytes, b"plain");
    }

    #[test]
    fn every_view_is_the_first_page_and_a_missing_file_is_missing() {
        let pages = pages();
        for view in ["", "machines", "machines/default/a.b", "../index.html"] {
            let page = pages.find(view, true).unwrap();
            assert_eq!((page.bytes, page.is_for_ever), (b"first".as_slice(), false), "{view}");
        }
        assert!(pages.find("assets/gone.js", true).is_none());
    }
}
