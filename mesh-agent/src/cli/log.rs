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
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, JsonFields, Writer, format};
use tracing_subscriber::fmt::{FmtContext, MakeWriter, layer};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::behind::Behind;
use super::out;
use super::repeats::{Repeats, Verdict};
use crate::app;
use crate::config::LogFormat;
use crate::model::text::{printable, printable_lines};

/// Once, before anything is logged. What is given waits for the last lines.
pub(super) fn start(which: LogFormat) -> Option<Behind> {
    let ansi = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let filter = log_filter(std::env::var("MESH_LOG").ok().as_deref());
    let words = "lines before the next one could not be written";
    let behind = Behind::start(std::io::stderr(), move |count| missing(which, words, count));
    let lines = match &behind {
        Ok(behind) => lines(which, ansi, behind.clone()),
        Err(_) => lines(which, ansi, std::io::stderr),
    };
    tracing_subscriber::registry()
        .with(lines)
        .with(filter)
        .init();
    behind.ok()
}

/// The line about lines that are not there.
fn missing(which: LogFormat, words: &str, count: u64) -> String {
    let time = humantime::format_rfc3339_micros(SystemTime::now());
    match which {
        LogFormat::Text => format!("{time}  WARN {words} left_out={count}\n"),
        LogFormat::Json => format!(
            "{{\"timestamp\":\"{time}\",\"level\":\"WARN\",\"message\":\"{words}\",\"left_out\":{count}}}\n"
        ),
    }
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
            text.fmt_fields(OneLine).with_writer(out).boxed()
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
            out::complain(format_args!(
                "MESH_LOG is not understood ({error}): logging at info"
            ));
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
        let metadata = event.metadata();
        // Problems are changes by themselves: told again is come again.
        if *metadata.level() > Level::WARN || metadata.target() == app::PROBLEMS {
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
            let words = "lines like the next one were left out";
            out.write_str(&missing(self.which, words, left_out))?;
        }
        match self.which {
            // Its fields are escaped one by one.
            LogFormat::Text => self.inner.format_event(context, out, event),
            LogFormat::Json => {
                let mut line = String::new();
                self.inner
                    .format_event(context, Writer::new(&mut line), event)?;
                // What JSON itself lets through stands only in its texts.
                out.write_str(&printable_lines(&line))
            }
        }
    }
}

/// The fields of a line, each on one line whatever it says.
struct OneLine;

impl<'w> FormatFields<'w> for OneLine {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut words = Words {
            writer,
            is_first: true,
            result: Ok(()),
        };
        fields.record(&mut words);
        words.result
    }
}

struct Words<'w> {
    writer: Writer<'w>,
    is_first: bool,
    result: fmt::Result,
}

impl Visit for Words<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let space = if self.is_first { "" } else { " " };
        self.is_first = false;
        let value = format!("{value:?}");
        let value = printable(&value);
        let written = match field.name() {
            "message" => write!(self.writer, "{space}{value}"),
            name => write!(self.writer, "{space}{name}={value}"),
        };
        self.result = self.result.and(written);
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

    #[test]
    fn a_name_of_two_lines_is_logged_on_one_and_steers_no_terminal() {
        let forged = "shop/a\n2026-01-01T00:00:00Z ERROR all is lost\u{1b}[2J\u{9b}1m\u{202e}";
        for which in [LogFormat::Text, LogFormat::Json] {
            let lines = written(which, || {
                tracing::warn!(pod = %forged, name = ?forged, "it is called {forged}");
            });
            assert_eq!(lines.len(), 1, "{lines:#?}");
            assert!(
                !lines[0].contains(crate::model::text::is_hidden),
                "{lines:?}"
            );
        }
        let [line] = &written(LogFormat::Json, || tracing::warn!(pod = forged, "x"))[..] else {
            panic!("one line");
        };
        let line: serde_json::Value = serde_json::from_str(line).expect("an object");
        assert_eq!(line["pod"], forged, "and nothing is lost");
    }

    #[test]
    fn a_problem_that_comes_again_within_a_minute_is_the_logs_last_word() {
        let lines = written(LogFormat::Text, || {
            for _ in 0..2 {
                tracing::warn!(target: app::PROBLEMS, "problem: the authority is away");
                tracing::warn!(target: app::PROBLEMS, "over: the authority is away");
            }
            tracing::warn!(target: app::PROBLEMS, "problem: the authority is away");
        });
        assert_eq!(lines.len(), 5, "{lines:#?}");
        assert!(lines[4].contains("problem:"), "{lines:#?}");
    }
}
