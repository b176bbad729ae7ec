use std::fmt::Write as _;

use super::escape;
use crate::quantity::{Bytes, Count, Millis, Rate};

/// A part of the page with a title.
pub fn section(page: &mut String, title: &str, body: &str) {
    let _ = writeln!(page, "<section><h2>{}</h2>{body}</section>", escape(title));
}

/// Milliseconds.
pub(super) fn millis(value: f64) -> String {
    Millis(value).to_string()
}

/// Bytes.
pub(super) fn bytes(value: f64) -> String {
    Bytes(value).to_string()
}

/// Bytes per second.
pub(super) fn rate(value: f64) -> String {
    Rate(value).to_string()
}

/// A number of pages.
pub(super) fn pages(value: f64) -> String {
    // Saturates: a float that is no count is drawn as the nearest one.
    Count(value as u64).to_string()
}

/// Cells under a header.
pub fn table(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let cells = |tag: &str, cells: &[String]| -> String {
        cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", escape(cell))).collect()
    };
    let header: Vec<String> = header.iter().map(ToString::to_string).collect();
    let rows: String = rows.map(|row| format!("<tr>{}</tr>", cells("td", &row))).collect();
    format!("<div class=\"wide\"><table><tr>{}</tr>{rows}</table></div>", cells("th", &header))
}
