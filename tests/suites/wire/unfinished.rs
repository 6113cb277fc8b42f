//! Handshakes that their clients never finish, and good ones beside them.

use super::*;

/// A client's first message, as openssl makes it.
fn client_hello() -> Vec<u8> {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let address = listener.local_addr().expect("an address").to_string();
    let mut client = Command::new("openssl")
        .args([
            "s_client", "-tls1_3", "-alpn", "mesh/1", "-connect", &address,
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("openssl");
    let (mut stream, _) = listener.accept().expect("a connection");
    let mut hello = vec![0; 5];
    stream.read_exact(&mut hello).expect("a record");
    hello.resize(5 + usize::from(u16::from_be_bytes([hello[3], hello[4]])), 0);
    stream.read_exact(&mut hello[5..]).expect("a record");
    drop(stream);
    client.wait().expect("its end");
    hello
}

/// How a client does not finish its handshake.
#[derive(Clone, Copy)]
enum Unfinished {
    Silent,
    HalfHello,
    Hello,
    Drip,
}

const UNFINISHED: u32 = 2_000;

/// That many connections, with the kinds in turn; those that drip do so until the end.
fn flood(wire: &Wire, kinds: &[Unfinished], stop: &Arc<AtomicBool>) -> Vec<TcpStream> {
    let to: SocketAddr = wire.target().parse().expect("an address");
    let hello = client_hello();
    let connect = || {
        let mut held = Vec::new();
        for _ in 0..UNFINISHED {
            held.push(TcpStream::connect(to)?);
        }
        Ok(held)
    };
    let held = wire
        .world
        .inside(&wire.plain, connect)
        .expect("connections");
    let mut dripping = Vec::new();
    for (mut stream, kind) in held.iter().zip(kinds.iter().cycle()) {
        // Displaced already, maybe.
        let _gone = match kind {
            Unfinished::Silent => Ok(()),
            Unfinished::HalfHello => stream.write_all(&hello[..hello.len() / 2]),
            Unfinished::Hello => stream.write_all(&hello),
            Unfinished::Drip => stream.try_clone().map(|clone| dripping.push(clone)),
        };
    }
    let stop = stop.clone();
    std::thread::spawn(move || {
        for byte in &hello[..hello.len() - 1] {
            for stream in &mut dripping {
                let _gone = stream.write_all(&[*byte]);
            }
            if stop.load(Ordering::Relaxed) {
                return;
            }
            // What is slow is the client.
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    held
}

/// Good connections beside unfinished ones of another source: none fails, and
/// memory and descriptors are bounded and given back by the deadline.
fn good_beside(kinds: &[Unfinished], args: &[&str]) -> (Wire, Agent) {
    let soft = nix::sys::resource::Resource::RLIMIT_NOFILE;
    let (_, most) = nix::sys::resource::getrlimit(soft).expect("a limit");
    nix::sys::resource::setrlimit(soft, most, most).expect("set");
    let mut wire = Wire::new().strict();
    wire.world.serve(&wire.c).expect("a server");
    let _near = wire.agent("n1", &[]);
    let far = wire.agent("n2", &[&["--handshake-timeout", "8s"], args].concat());
    let good = || {
        let targets = &wire.c.targets()[2..3];
        let args = ["--count", "200"];
        let report = wire.world.storm(&wire.a, targets, &args);
        all_fine(&report.expect("a report"), 200);
    };
    good();
    let (descriptors, memory) = (far.open_fds(), far.rss().expect("memory"));
    let stop = Arc::new(AtomicBool::new(false));
    let held = flood(&wire, kinds, &stop);
    good();
    let grown = far.rss().expect("memory").saturating_sub(memory);
    println!(
        "{} bytes for each unfinished one",
        grown / u64::from(UNFINISHED)
    );
    assert!(grown < u64::from(UNFINISHED) * 64 * 1024, "{grown}");
    // The good ones' connections between the agents are kept for a while.
    let gone = eventually(2 * SOON, || far.open_fds() <= descriptors + 64);
    assert!(gone, "{descriptors} descriptors, now {}", far.open_fds());
    stop.store(true, Ordering::Relaxed);
    drop(held);
    good();
    (wire, far)
}

#[test]
fn two_thousand_handshakes_that_are_never_finished_hurt_nobody() {
    use Unfinished::{Drip, HalfHello, Hello, Silent};
    let (wire, far) = good_beside(&[Silent, HalfHello, Hello, Drip], &[]);
    let timed_out = ended(&far, "inbound", "tls_timeout");
    assert!(timed_out >= 200.0, "{timed_out}");
    // Whoever reads the log learns how long they were waited for.
    for line in wire.world.logged("n2") {
        if line["direction"] == "inbound" && line["reason"] == "tls_timeout" {
            let millis = line["duration_ms"].as_f64().expect("a time");
            assert!(millis >= 7_900.0, "{line}");
        }
    }
}

#[test]
fn a_source_that_floods_a_pod_with_handshakes_displaces_only_its_own() {
    // Places for 100 that are not proven: all taken, all the time.
    let args = ["--max-connections-per-pod", "400"];
    let (_wire, far) = good_beside(&[Unfinished::Hello], &args);
    let displaced = ended(&far, "inbound", "displaced");
    assert!(displaced >= 1_000.0, "{displaced}");
    assert_eq!(ended(&far, "inbound", "over_limit"), 0.0);
}
