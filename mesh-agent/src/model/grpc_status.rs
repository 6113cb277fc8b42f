//! Statuses of gRPC and of HTTP, each in the other's words.

pub(crate) const OK: u8 = 0;
pub(crate) const CANCELLED: u8 = 1;
pub(crate) const UNKNOWN: u8 = 2;
pub(crate) const INVALID_ARGUMENT: u8 = 3;
pub(crate) const DEADLINE_EXCEEDED: u8 = 4;
pub(crate) const NOT_FOUND: u8 = 5;
pub(crate) const ALREADY_EXISTS: u8 = 6;
pub(crate) const PERMISSION_DENIED: u8 = 7;
pub(crate) const RESOURCE_EXHAUSTED: u8 = 8;
pub(crate) const FAILED_PRECONDITION: u8 = 9;
pub(crate) const ABORTED: u8 = 10;
pub(crate) const OUT_OF_RANGE: u8 = 11;
pub(crate) const UNIMPLEMENTED: u8 = 12;
pub(crate) const INTERNAL: u8 = 13;
pub(crate) const UNAVAILABLE: u8 = 14;
pub(crate) const DATA_LOSS: u8 = 15;
pub(crate) const UNAUTHENTICATED: u8 = 16;

/// What a status of gRPC is in HTTP, for what is said in the words of HTTP.
#[must_use]
pub(crate) fn http_status(status: u32) -> u16 {
    let Ok(status) = u8::try_from(status) else {
        return 500;
    };
    match status {
        OK => 200,
        CANCELLED => 499,
        INVALID_ARGUMENT | FAILED_PRECONDITION | OUT_OF_RANGE => 400,
        DEADLINE_EXCEEDED => 504,
        NOT_FOUND => 404,
        ALREADY_EXISTS | ABORTED => 409,
        PERMISSION_DENIED => 403,
        RESOURCE_EXHAUSTED => 429,
        UNIMPLEMENTED => 501,
        UNAVAILABLE => 503,
        UNAUTHENTICATED => 401,
        // UNKNOWN, INTERNAL, DATA_LOSS, and what nobody has heard of.
        _ => 500,
    }
}

/// What a status of HTTP that is no answer of gRPC's is in gRPC, as its specification has
/// it.
#[must_use]
pub(crate) fn grpc_status(status: u16) -> u8 {
    match status {
        400 => INTERNAL,
        401 => UNAUTHENTICATED,
        403 => PERMISSION_DENIED,
        404 => UNIMPLEMENTED,
        429 | 502 | 503 | 504 => UNAVAILABLE,
        _ => UNKNOWN,
    }
}
