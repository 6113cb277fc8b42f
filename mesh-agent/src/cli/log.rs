//! Where and how the process's own log is written: standard error, as text or
//! as JSON, without escape codes unless a person watches.

use std::fmt::{self, Write as _};
use std::hash::{DefaultHasher, Hasher as _};
use std::io::IsTerminal as _;
use std::time::{Instant, SystemTime};

use parking_lot::Mutex;
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, JsonFields, Writer, format};
use tracing_subscriber::fmt::{FmtContext, MakeWriter, layer};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::repeats::{Repeats, Verdict};
use crate::config::LogFormat;

/// Once, before anything is logged.
pub(super) fn start(which: LogFormat) {
    let ansi = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let filter = log_filter(std::env::var("MESH_LOG").ok().as_deref());
    tracing_subscriber::registry()
        .with(lines(which, ansi, std::io::stderr))
        .with(filter)
        .init();
}

/// Writes every event as one line to `out`.
fn lines<S, W>(which: LogFormat, ansi: bool, out: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    match which {
        LogFormat::Text => {
            let text = Changes::of(format(), which);
            let text = layer().with_ansi(ansi).event_format(text);
            text.with_writer(out).boxed()
        }
        LogFormat::Json => {
            let json = format().json().flatten_event(true);
            let json = json.with_current_span(false).with_span_list(false);
            let json = layer().event_format(Changes::of(json, which));
            let json = json.fmt_fields(JsonFields::new()).with_ansi(false);
            json.with_writer(out).boxed()
        }
    }
}

/// `text`: a level, or `target=level` pairs with commas between.
fn log_filter(text: Option<&str>) -> Targets {
    let usual = || Targets::new().with_default(LevelFilter::INFO);
    text.map_or_else(usual, |text| {
        text.parse().unwrap_or_else(|error| {
            eprintln!("mesh-agent: MESH_LOG is not understood ({error}): logging at info");
            usual()
        })
    })
}

/// Leaves out warnings and errors that say nothing new; see [`Repeats`].
struct Changes<F> {
    inner: F,
    which: LogFormat,
    repeats: Mutex<Repeats<Identifier, u64>>,
}

impl<F> Changes<F> {
    fn of(inner: F, which: LogFormat) -> Self {
        let repeats = Mutex::new(Repeats::new());
        Self {
            inner,
            which,
            repeats,
        }
    }

    fn look(&self, event: &Event<'_>, now: Instant) -> Verdict {
        if *event.metadata().level() > Level::WARN {
            return Verdict::Write { left_out: 0 };
        }
        let mut said = Said(DefaultHasher::new());
        event.record(&mut said);
        let place = event.metadata().callsite();
        // The place counts: two may say the same of different things.
        said.0.write(event.metadata().target().as_bytes());
        said.0.write_u32(event.metadata().line().unwrap_or(0));
        self.repeats.lock().look(place, said.0.finish(), now)
    }

    fn write_left_out(&self, count: u64, out: &mut Writer<'_>) -> fmt::Result {
        let time = humantime::format_rfc3339_micros(SystemTime::now());
        let words = "lines like the next one were left out";
        match self.which {
            LogFormat::Text => writeln!(out, "{time}  WARN {words} left_out={count}"),
            LogFormat::Json => writeln!(
                out,
                r#"{{"timestamp":"{time}","level":"WARN","message":"{words}","left_out":{count}}}"#
            ),
        }
    }
}

impl<S, N, F> FormatEvent<S, N> for Changes<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let Verdict::Write { left_out } = self.look(event, Instant::now()) else {
            return Ok(());
        };
        if left_out > 0 {
            self.write_left_out(left_out, &mut out)?;
        }
        self.inner.format_event(context, out, event)
    }
}

/// A line with all its fields, as one number.
struct Said(DefaultHasher);

impl Visit for Said {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Writing into a hasher cannot fail.
        let _never = write!(Hashing(&mut self.0), "{}={value:?}\0", field.name());
    }
}

struct Hashing<'a>(&'a mut DefaultHasher);

impl std::fmt::Write for Hashing<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn written(which: LogFormat, work: impl FnOnce()) -> Vec<String> {
        let page = Page::default();
        let out = page.clone();
        let layer = lines(which, false, move || out.clone());
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, work);
        let text = String::from_utf8(page.0.lock().clone()).expect("text");
        text.lines().map(str::to_owned).collect()
    }

    fn cannot_enrol(pod: &str) {
        tracing::error!(pod, "cannot enrol");
    }

    #[test]
    fn a_warning_that_repeats_is_one_line_and_news_are_all_there() {
        let lines = written(LogFormat::Text, || {
            (0..128).for_each(|_| cannot_enrol("shop/a"));
            cannot_enrol("shop/b");
            (0..3).for_each(|_| tracing::info!("started"));
        });
        assert_eq!(lines.len(), 1 + 2 + 3, "{lines:#?}");
        assert!(lines[1].contains("left_out=127"), "{lines:#?}");
        assert!(lines[2].contains("shop/b"), "{lines:#?}");
    }

    #[test]
    fn json_is_one_object_a_line_with_the_fields_at_its_top() {
        let lines = written(LogFormat::Json, || {
            (0..2).for_each(|_| cannot_enrol("a \"quoted\" pod"));
            cannot_enrol("b");
        });
        let parse = |line: &String| serde_json::from_str(line).expect("an object");
        let lines: Vec<serde_json::Value> = lines.iter().map(parse).collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0]["pod"], "a \"quoted\" pod");
        assert_eq!(lines[0]["message"], "cannot enrol");
        assert_eq!(lines[0]["level"], "ERROR");
        assert_eq!(lines[1]["left_out"], 1);
    }

    #[test]
    fn there_is_no_escape_code_where_nobody_watches() {
        for which in [LogFormat::Text, LogFormat::Json] {
            let lines = written(which, || cannot_enrol("shop/a"));
            assert!(!lines.concat().contains('\u{1b}'), "{lines:?}");
        }
    }
}
