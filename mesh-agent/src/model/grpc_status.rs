//! Statuses of gRPC and of HTTP, each in the other's words.

/// What a status of gRPC is in HTTP, for what is said in the words of HTTP.
#[must_use]
pub(crate) fn http_status(status: u32) -> u16 {
    match status {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        // UNKNOWN, INTERNAL, DATA_LOSS, and what nobody has heard of.
        _ => 500,
    }
}

/// What a status of HTTP that is no answer of gRPC's is in gRPC, as its specification has
/// it.
#[must_use]
pub(crate) fn grpc_status(status: u16) -> u8 {
    match status {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}
