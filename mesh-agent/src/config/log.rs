//! How the process's own log is written.

use clap::{Args, ValueEnum};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for people; with colours where a terminal shows them.
    Text,
    /// One object a line.
    Json,
}

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Log {
    /// How the process's own log, on standard error, is written.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
}
