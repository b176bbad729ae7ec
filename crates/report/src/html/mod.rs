//! A report as one page that needs nothing else: no scripts, no fonts, no pictures from elsewhere.
//!
//! * `page`: the text and the tables.
//! * `following`: how pages followed a machine.
//! * `parts`: sections, tables and quantities.
//! * `plot`: lines, steps and bars as SVG.
//! * `style`: what it looks like, in light and dark.

mod following;
mod page;
mod parts;
mod plot;
mod style;

pub use page::render;
pub use parts::{section, table};
pub use style::STYLE;

/// Text as it stands in a page, in attributes too. Control characters are replaced: XML knows no way to write them.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            _ => escaped.push(c),
        }
    }
    crate::text::clean(&escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_becomes_text() {
        assert_eq!(
            escape("<script a='1' b=\"2\">&\0</script>"),
            "&lt;script a=&#39;1&#39; b=&quot;2&quot;&gt;&amp;\u{fffd}&lt;/script&gt;"
        );
    }
}
