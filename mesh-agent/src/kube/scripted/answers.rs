//! Answers as they are on the wire.

use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

pub(super) type Io = std::io::Result<()>;

pub(super) fn status(code: u16, reason: &str, message: &str) -> String {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
        "reason": reason, "message": message, "code": code})
    .to_string()
}

pub(super) async fn answer(stream: &mut TcpStream, code: u16, body: &str) -> Io {
    answer_with(stream, code, "connection: close\r\n", body).await
}

pub(super) async fn answer_and_stay(stream: &mut TcpStream, code: u16, body: &str) -> Io {
    answer_with(stream, code, "", body).await
}

pub(super) async fn answer_with(stream: &mut TcpStream, code: u16, header: &str, body: &str) -> Io {
    let text = format!(
        "HTTP/1.1 {code} X\r\ncontent-length: {}\r\n{header}\r\n{body}",
        body.len()
    );
    stream.write_all(text.as_bytes()).await
}

pub(super) async fn begin_chunks(stream: &mut TcpStream) -> Io {
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).await
}

pub(super) async fn chunk(stream: &mut TcpStream, bytes: &[u8]) -> Io {
    stream
        .write_all(format!("{:x}\r\n", bytes.len()).as_bytes())
        .await?;
    stream.write_all(bytes).await?;
    stream.write_all(b"\r\n").await
}
