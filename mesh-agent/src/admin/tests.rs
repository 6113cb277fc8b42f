use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;

struct Page;

impl Pages for Page {
    fn metrics(&self) -> String {
        "# EOF\n".to_owned()
    }

    fn problems(&self) -> Vec<Problem> {
        Vec::new()
    }
}

async fn code(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connect");
    let head = format!("{request} HTTP/1.1\r\nHost: node1.example:15090\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("write");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("read");
    let code = answer.split(' ').nth(1);
    code.expect("an answer").to_owned()
}

#[tokio::test]
async fn who_scrapes_from_elsewhere_gets_metrics_and_nothing_else() {
    let anywhere = "127.0.0.1:0".parse().expect("an address");
    let tcp = bind_pages(anywhere).await.expect("a port");
    let scrapes = bind_scrapes(Some(anywhere)).await.expect("a port");
    let at = |l: &TcpListener| l.local_addr().expect("an address");
    let (loopback, address) = (at(&tcp), at(scrapes.as_ref().expect("one")));
    let cancel = CancellationToken::new();
    let serving = serve_pages(tcp, scrapes, Arc::new(Page), cancel.clone());
    let serving = tokio::spawn(serving);
    assert_eq!(code(address, "GET /metrics").await, "200");
    // By a name that is not loopback's.
    assert_eq!(code(loopback, "GET /metrics").await, "403");
    for page in [
        "/",
        "/config",
        "/status",
        "/connections",
        "/explain",
        "/readyz",
        "/livez",
    ] {
        assert_eq!(code(address, &format!("GET {page}")).await, "404", "{page}");
    }
    for verb in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"] {
        let said = code(address, &format!("{verb} /metrics")).await;
        assert_eq!(said, "405", "{verb}");
    }
    cancel.cancel();
    serving.await.expect("it ends");
}

/// It cannot do its work.
struct Blocked;

impl Pages for Blocked {
    fn metrics(&self) -> String {
        "# EOF\n".to_owned()
    }

    fn problems(&self) -> Vec<Problem> {
        vec![Problem::new("signing", "it cannot sign", "none", "mend it").blocking()]
    }
}

async fn probed(pages: impl Pages, page: &'static str) -> Result<String, FetchError> {
    let anywhere = "127.0.0.1:0".parse().expect("an address");
    let tcp = bind_pages(anywhere).await.expect("a port");
    let address = tcp.local_addr().expect("an address");
    let cancel = CancellationToken::new();
    let serving = serve_pages(tcp, None, Arc::new(pages), cancel.clone());
    let serving = tokio::spawn(serving);
    let asked = tokio::task::spawn_blocking(move || fetch_at(address, page));
    let answer = asked.await.expect("it ends");
    cancel.cancel();
    serving.await.expect("it ends");
    answer
}

#[tokio::test]
async fn a_probe_is_told_whether_the_work_can_be_done_and_not_whether_a_port_is_open() {
    let ready = probed(Page, "/readyz").await;
    assert_eq!(ready.expect("an answer"), "ready\n");
    let refused = probed(Blocked, "/readyz").await;
    let Err(FetchError::Refused(why)) = refused else {
        panic!("{refused:?}");
    };
    assert!(why.contains("it cannot sign"), "{why}");
    // It answers, and a start anew would not mend it.
    probed(Blocked, "/livez").await.expect("an answer");
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr());
    let gone = fetch_at(nobody.expect("an address"), "/livez");
    assert!(matches!(gone, Err(FetchError::Io(_))), "{gone:?}");
}

#[test]
fn a_question_that_no_agent_reads_is_not_asked() {
    let dir = tempfile::tempdir().expect("a directory");
    let listener = private_socket(&socket_path(dir.path())).expect("a socket");
    let question = |length| Question {
        method: Some("GET".to_owned()),
        url: Some("/".repeat(length)),
        ..Question::default()
    };
    let refused = fetch(dir.path(), &question(100_000).page());
    let Err(FetchError::Refused(why)) = refused else {
        panic!("{refused:?}");
    };
    assert!(why.contains("too long") && why.contains("at most"), "{why}");
    listener.set_nonblocking(true).expect("set");
    assert!(listener.accept().is_err(), "nobody was connected to");
}

#[test]
fn only_a_loopback_host_is_taken() {
    for host in [
        "localhost",
        "localhost:15020",
        "127.0.0.1",
        "127.9.9.9:80",
        "[::1]",
        "[::1]:1",
        "::1",
    ] {
        assert!(is_loopback(host), "{host}");
    }
    for host in [
        "",
        ":80",
        "localhost.evil.example",
        "evil:15020",
        "10.0.0.1:80",
        "127.0.0.1.evil",
        "localhost:evil",
        "[::1",
        "::2",
    ] {
        assert!(!is_loopback(host), "{host}");
    }
}

/// Says the same for ever.
struct Endless(usize);

impl std::io::Read for Endless {
    fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
        let count = to.len().min(self.0);
        to[..count].fill(b'x');
        Ok(count)
    }
}

#[test]
fn an_answer_without_end_is_left_by_its_size_and_by_its_time() {
    let later = Instant::now() + Duration::from_secs(600);
    let much = read_whole(Endless(usize::MAX), later).expect_err("too much");
    assert_eq!(much.kind(), ErrorKind::FileTooLarge);
    let slow = read_whole(Endless(1), Instant::now()).expect_err("too late");
    assert_eq!(slow.kind(), ErrorKind::TimedOut);
}
