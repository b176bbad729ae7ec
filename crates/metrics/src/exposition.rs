//! The two text formats: OpenMetrics 1.0, and the one of Prometheus before it (0.0.4).

use std::fmt::Write;

/// A text format of figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus' text format 0.0.4.
    Prometheus,
}

impl Format {
    /// The format that a client wants, by its header `Accept`.
    pub fn of(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") { Self::OpenMetrics } else { Self::Prometheus }
    }

    /// Its media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// What kind of figure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// How much there is now.
    Gauge,
    /// How much there was in all. The name of its family has no `_total`, its samples do.
    Counter,
    /// How many were how large.
    Histogram,
}

/// Figures as they are written one after the other.
pub(crate) struct Page {
    format: Format,
    text: String,
}

/// Names and values of labels.
pub(crate) type Labels<'a> = &'a [(&'a str, &'a str)];

impl Page {
    pub(crate) fn new(format: Format) -> Self {
        Self { format, text: String::new() }
    }

    /// Begins a family. All samples of it follow.
    pub(crate) fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let suffix = if kind == Kind::Counter && self.format == Format::Prometheus { "_total" } else { "" };
        let kind = match kind {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
            Kind::Histogram => "histogram",
        };
        // Writing to a string does not fail.
        let _ = writeln!(self.text, "# HELP {name}{suffix} {help}\n# TYPE {name}{suffix} {kind}");
    }

    /// A sample, by its whole name.
    pub(crate) fn sample(&mut self, name: &str, labels: Labels<'_>, value: f64) {
        self.text.push_str(name);
        for (index, (label, text)) in labels.iter().enumerate() {
            let open = if index == 0 { '{' } else { ',' };
            let _ = write!(self.text, "{open}{label}=\"{}\"", escaped(text));
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{close} {value}");
    }

    /// Everything.
    pub(crate) fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_name_counters_in_their_own_way() {
        let page = |format| {
            let mut page = Page::new(format);
            page.family("x", Kind::Counter, "Some.");
            page.sample("x_total", &[("a", "\"\\\n")], 2.0);
            page.finish()
        };
        let sample = "x_total{a=\"\\\"\\\\\\n\"} 2\n";
        assert_eq!(
            page(Format::Prometheus),
            format!("# HELP x_total Some.\n# TYPE x_total counter\n{sample}")
        );
        assert_eq!(page(Format::OpenMetrics), format!("# HELP x Some.\n# TYPE x counter\n{sample}# EOF\n"));
    }

    #[test]
    fn a_client_gets_what_it_asks_for() {
        let of_prometheus =
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1";
        assert_eq!(Format::of(of_prometheus), Format::OpenMetrics);
        assert_eq!(Format::of("*/*"), Format::Prometheus);
    }
}
