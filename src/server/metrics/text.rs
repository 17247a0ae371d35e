//! The text format of Prometheus (version 0.0.4): families with HELP and TYPE, samples with labels, everything escaped.

use std::fmt::{Display, Write as _};

use crate::relay::Observed;

/// The media type.
pub(in crate::server) const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A page of figures under construction.
#[derive(Default)]
pub(super) struct Page {
    text: String,
}

/// A family of samples. Its HELP and TYPE stand on the page; samples follow.
pub(super) struct Family<'p> {
    page: &'p mut Page,
    name: &'static str,
}

impl Page {
    /// Begins a family of numbers that only grow. The name ends with `_total`.
    pub(super) fn counter(&mut self, name: &'static str, help: &str) -> Family<'_> {
        debug_assert!(name.ends_with("_total"));
        self.family(name, help, "counter")
    }

    /// Begins a family of numbers that come and go.
    pub(super) fn gauge(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, help, "gauge")
    }

    /// Begins a family of histograms.
    pub(super) fn histogram(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, help, "histogram")
    }

    fn family(&mut self, name: &'static str, help: &str, kind: &str) -> Family<'_> {
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        // Writing into a string cannot fail, here and below.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        Family { page: self, name }
    }

    /// The page.
    pub(super) fn finish(self) -> String {
        self.text
    }
}

impl Family<'_> {
    /// Adds the sample without labels.
    pub(super) fn value(&mut self, value: impl Display) {
        self.sample(&[], value);
    }

    /// Adds a sample.
    pub(super) fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) -> &mut Self {
        self.line("", labels, None, value);
        self
    }

    /// Adds a histogram of these labels. What was observed is divided by `unit`.
    pub(super) fn observed(&mut self, labels: &[(&str, &str)], seen: &Observed, unit: f64) -> &mut Self {
        for (bound, count) in &seen.buckets {
            self.line("_bucket", labels, Some(&(*bound as f64 / unit).to_string()), count);
        }
        self.line("_bucket", labels, Some("+Inf"), seen.count);
        self.line("_sum", labels, None, seen.sum as f64 / unit);
        self.line("_count", labels, None, seen.count);
        self
    }

    fn line(&mut self, suffix: &str, labels: &[(&str, &str)], bound: Option<&str>, value: impl Display) {
        let text = &mut self.page.text;
        text.push_str(self.name);
        text.push_str(suffix);
        let labels = labels.iter().copied().chain(bound.map(|bound| ("le", bound)));
        let mut separator = '{';
        for (name, value) in labels {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(text, "{separator}{name}=\"{value}\"");
            separator = ',';
        }
        if separator == ',' {
            text.push('}');
        }
        let _ = writeln!(text, " {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_help_are_escaped_and_histograms_add_up() {
        let mut page = Page::default();
        page.gauge("a", "A \\ and\na line.").sample(&[("x", "\"\\\n"), ("y", "é")], 1.5);
        page.counter("b_total", "B.").value(7);
        let seen = Observed { buckets: vec![(1_000_000, 1), (250_000_000, 2)], count: 3, sum: 5_000_000_000 };
        page.histogram("c_seconds", "C.").observed(&[("z", "z")], &seen, 1e9);
        assert_eq!(
            page.finish(),
            "# HELP a A \\\\ and\\na line.\n# TYPE a gauge\na{x=\"\\\"\\\\\\n\",y=\"é\"} 1.5\n\
             # HELP b_total B.\n# TYPE b_total counter\nb_total 7\n\
             # HELP c_seconds C.\n# TYPE c_seconds histogram\n\
             c_seconds_bucket{z=\"z\",le=\"0.001\"} 1\nc_seconds_bucket{z=\"z\",le=\"0.25\"} 2\n\
             c_seconds_bucket{z=\"z\",le=\"+Inf\"} 3\nc_seconds_sum{z=\"z\"} 5\nc_seconds_count{z=\"z\"} 3\n"
        );
    }
}
