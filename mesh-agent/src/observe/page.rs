//! The formats of the Prometheus page.

/// Content type of the page as the agent makes it.
pub(crate) const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Content type of [`to_text`]'s page.
pub(crate) const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Does the asker want OpenMetrics? Without a word about it the answer is no:
/// a browser or an old scraper reads only the text format.
#[must_use]
pub(crate) fn wants_openmetrics(accept: &str) -> bool {
    accept.split(',').any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let named = parts.next() == Some("application/openmetrics-text");
        // "q=0" means: not this one.
        let refused = |p: &str| {
            p.strip_prefix("q=")
                .is_some_and(|q| q.parse::<f32>().is_ok_and(|q| q == 0.0))
        };
        named && !parts.any(refused)
    })
}

/// An OpenMetrics page in the text format 0.0.4, where a counter's family has
/// the name of its samples.
#[must_use]
pub(crate) fn to_text(openmetrics: &str) -> String {
    let mut text = String::with_capacity(openmetrics.len() + 4096);
    let mut help: Option<&str> = None;
    for line in openmetrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = Some(rest);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap_or((rest, "untyped"));
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                kind => ("", kind),
            };
            if let Some((_, words)) = help.take().and_then(|h| h.split_once(' ')) {
                text.push_str(&format!("# HELP {name}{suffix} {words}\n"));
            }
            text.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
        } else if !line.starts_with('#') {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}
