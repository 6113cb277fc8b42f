//! Any bytes as the first ones of a connection.

use super::{Hello, MAX_HELLO, MAX_NAME, MAX_REQUEST_LINE, ServerName, Spoken, client_hello, http};

/// A verdict for every input, and none that more bytes would change.
pub(crate) fn hello(bytes: &[u8]) {
    let whole = client_hello(bytes);
    if let Hello::OtherTls {
        server_name: ServerName::Is(name),
    } = &whole
    {
        assert!((1..=MAX_NAME).contains(&name.len()), "{name}");
        assert_eq!(**name, name.to_ascii_lowercase());
    }
    if bytes.len() >= MAX_HELLO {
        assert_ne!(whole, Hello::NeedMore);
    }
    // Each prefix of a short input, about 64 of a long one.
    for end in (0..bytes.len()).step_by(1 + bytes.len() / 64) {
        let part = client_hello(&bytes[..end]);
        assert!(
            part == Hello::NeedMore || part == whole,
            "{part:?} of {end} bytes, then {whole:?}"
        );
    }
}

/// What a client speaks is told by each prefix alike, and at last.
pub(crate) fn spoken(bytes: &[u8]) {
    let whole = http(bytes);
    if bytes.len() >= MAX_REQUEST_LINE {
        assert_ne!(whole, Spoken::NeedMore);
    }
    for end in (0..bytes.len()).step_by(1 + bytes.len() / 256) {
        let part = http(&bytes[..end]);
        assert!(
            part == Spoken::NeedMore || part == whole,
            "{part:?} of {end} bytes, then {whole:?}"
        );
    }
}

#[cfg(test)]
pub(crate) fn requests() -> Vec<(&'static str, Vec<u8>)> {
    let long = [b"GET /".to_vec(), vec![b'a'; MAX_REQUEST_LINE + 100]].concat();
    vec![
        (
            "get",
            b"GET /index.html?a=b HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        ),
        (
            "http2",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec(),
        ),
        ("redis", b"*1\r\n$4\r\nPING\r\n".to_vec()),
        (
            "rtsp",
            b"OPTIONS rtsp://cam/1 RTSP/1.0\r\nCSeq: 1\r\n\r\n".to_vec(),
        ),
        ("nats", b"CONNECT {\"verbose\":false}\r\nPING\r\n".to_vec()),
        ("empty-line", b"\r\nPOST / HTTP/1.0\r\n\r\n".to_vec()),
        ("long", long),
    ]
}

#[cfg(test)]
pub(crate) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let mesh = include_bytes!("corpus/rustls-mesh.bin").to_vec();
    let openssl = include_bytes!("corpus/openssl-mesh.bin").to_vec();
    let in_small_records: Vec<u8> = openssl[5..]
        .chunks(7)
        .flat_map(|part| {
            let len = u8::try_from(part.len()).expect("short");
            [&[22, 3, 1, 0, len], part].concat()
        })
        .collect();
    let dribble = [1, 0, 0x3f, 0].into_iter().chain([0; 1_400]);
    let dribble = dribble.flat_map(|byte| [22, 3, 1, 0, 1, byte]).collect();
    vec![
        ("rustls-mesh", mesh),
        (
            "openssl-h2-sni",
            include_bytes!("corpus/openssl-h2-sni.bin").to_vec(),
        ),
        (
            "openssl-tls12",
            include_bytes!("corpus/openssl-tls12.bin").to_vec(),
        ),
        ("cut", openssl[..openssl.len() / 2].to_vec()),
        ("openssl-mesh", openssl),
        ("in-small-records", in_small_records),
        ("dribble", dribble),
        ("oversized", vec![22, 3, 1, 0x40, 0, 1, 0, 0x50, 0]),
        ("http", b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec()),
        ("http2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()),
        ("ssh", b"SSH-2.0-OpenSSH_9\r\n".to_vec()),
        ("proxy", b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n".to_vec()),
        ("one-byte", vec![22]),
    ]
}
