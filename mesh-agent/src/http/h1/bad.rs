//! What is wrong with a message.

use crate::model::{PathProblem, RefuseReason};

/// Why a message is not taken: a word for the log, and the reason that it is
/// refused for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bad {
    /// More than one empty line before a request.
    EmptyLines,
    RequestLine,
    StatusLine,
    /// A line that does not end with CR LF.
    LineEnd,
    /// A blank or another byte that may not be in a name, or no colon.
    HeaderName,
    /// A control byte in a value.
    HeaderValue,
    TooManyLines,
    TooLong,
    /// The first line alone is too long.
    LineTooLong,
    Version,
    /// A form of target that does not go with the method.
    Target,
    Path(PathProblem),
    NoHost,
    SeveralHosts,
    Host,
    /// The authority of the target is not the one of `Host`.
    OtherHost,
    LengthAndChunked,
    ContentLength,
    SeveralLengths,
    TransferEncoding,
    /// Of HTTP/1.0, which has none.
    TransferEncodingVersion,
    /// `Content_Length` and the like, which some servers read as the other.
    FramingName,
    /// Of a CONNECT.
    ConnectBody,
    ConnectMethod,
    ChunkSize,
    ChunkExtension,
    /// No CR LF behind a chunk's data.
    ChunkEnd,
    Trailer,
    /// A trailer that says where the message ends, or who asks.
    TrailerName,
    TrailersTooLong,
    /// An upgrade that nobody asked for.
    Upgrade,
    /// More answers before the answer than [`MAX_INFORMATIONAL`].
    Informational,
}

/// Most answers (1xx) before the answer to a request, of any version.
pub(crate) const MAX_INFORMATIONAL: u32 = 32;

/// Whose message it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Request,
    Response,
}

impl Bad {
    /// What the access log has as `detail`.
    pub(crate) const fn detail(self) -> &'static str {
        match self {
            Self::EmptyLines => "empty_lines",
            Self::RequestLine => "request_line",
            Self::StatusLine => "status_line",
            Self::LineEnd => "line_end",
            Self::HeaderName => "header_name",
            Self::HeaderValue => "header_value",
            Self::TooManyLines => "header_lines",
            Self::TooLong => "head_length",
            Self::LineTooLong => "target_length",
            Self::Version => "version",
            Self::Target => "target",
            Self::Path(problem) => path(problem),
            Self::NoHost => "host_missing",
            Self::SeveralHosts => "host_several",
            Self::Host => "host_syntax",
            Self::OtherHost => "host_not_target",
            Self::LengthAndChunked => "content_length_and_transfer_encoding",
            Self::ContentLength => "content_length_syntax",
            Self::SeveralLengths => "content_length_several",
            Self::TransferEncoding => "transfer_encoding",
            Self::TransferEncodingVersion => "transfer_encoding_http_1_0",
            Self::FramingName => "underscore_name",
            Self::ConnectBody => "connect_body",
            Self::ConnectMethod => "connect",
            Self::ChunkSize => "chunk_size",
            Self::ChunkExtension => "chunk_extension",
            Self::ChunkEnd => "chunk_end",
            Self::Trailer => "trailer",
            Self::TrailerName => "trailer_name",
            Self::TrailersTooLong => "trailer_length",
            Self::Upgrade => "upgrade",
            Self::Informational => "informational_answers",
        }
    }

    /// Every fault of an answer is the application's: 502.
    pub(crate) const fn reason(self, side: Side) -> RefuseReason {
        if matches!(side, Side::Response) {
            return RefuseReason::MalformedResponse;
        }
        match self {
            Self::EmptyLines
            | Self::RequestLine
            | Self::StatusLine
            | Self::LineEnd
            | Self::HeaderName
            | Self::HeaderValue
            | Self::Target
            | Self::ChunkSize
            | Self::ChunkExtension
            | Self::ChunkEnd
            | Self::Trailer
            | Self::TrailerName
            | Self::Upgrade
            | Self::Informational => RefuseReason::MalformedRequest,
            Self::TooManyLines | Self::TooLong | Self::TrailersTooLong => {
                RefuseReason::HeadTooLarge
            }
            Self::LineTooLong => RefuseReason::TargetTooLong,
            Self::Version => RefuseReason::HttpVersion,
            Self::Path(problem) if problem.is_malformed() => RefuseReason::MalformedRequest,
            Self::Path(_) => RefuseReason::AmbiguousPath,
            Self::NoHost | Self::SeveralHosts | Self::Host | Self::OtherHost => {
                RefuseReason::AmbiguousHost
            }
            Self::LengthAndChunked
            | Self::ContentLength
            | Self::SeveralLengths
            | Self::TransferEncoding
            | Self::TransferEncodingVersion
            | Self::FramingName
            | Self::ConnectBody => RefuseReason::AmbiguousFraming,
            Self::ConnectMethod => RefuseReason::ConnectMethod,
        }
    }
}

const fn path(problem: PathProblem) -> &'static str {
    match problem {
        PathProblem::EncodedSeparator => "path_separator",
        PathProblem::BadEscape => "path_escape",
        PathProblem::Control => "path_control",
        PathProblem::AboveRoot => "path_above_root",
        PathProblem::ParameterOnDots => "path_parameter",
        PathProblem::OverlongUtf8 => "path_utf8",
        PathProblem::NotAbsolute => "path_relative",
    }
}
