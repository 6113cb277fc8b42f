//! Packets as they were on a link: tcpdump into a file, then a look inside.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::{Place, World, eventually};

/// A running tcpdump.
pub struct PacketCapture {
    child: Child,
    errors: BufReader<ChildStderr>,
    file: PathBuf,
}

/// What a capture holds.
#[derive(Debug, Default)]
pub struct Captured {
    pub packets: usize,
    /// Packets that the capture itself lost.
    pub dropped: usize,
    /// TCP payload by sender and receiver, in the order of the packets.
    pub flows: HashMap<(SocketAddr, SocketAddr), Vec<u8>>,
    raw: Vec<u8>,
}

impl World {
    /// Records what passes `interface` (for example `eth0` of a pod, or
    /// [`World::wire`] of a node) and fits `filter`.
    pub fn capture_packets<'a>(
        &self,
        place: impl Into<Place<'a>>,
        interface: &str,
        filter: &str,
    ) -> Result<PacketCapture> {
        static COUNTER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let file = self.dir().join(format!("{number}.pcap"));
        let command = self.command_in(place.into(), "tcpdump");
        PacketCapture::start(command, interface, filter, file)
    }
}

impl PacketCapture {
    /// `command` is tcpdump, somewhere.
    pub(crate) fn start(
        mut command: Command,
        interface: &str,
        filter: &str,
        file: PathBuf,
    ) -> Result<Self> {
        let mut child = command
            .args(["-n", "-U", "--immediate-mode", "-s", "0", "-B", "65536"])
            // As root: else it gives up the right to write where we want it.
            .args(["-Z", "root", "-i", interface, "-w"])
            .arg(&file)
            .arg(filter)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("start tcpdump")?;
        let mut errors = BufReader::new(child.stderr.take().context("its output")?);
        let mut said = String::new();
        while !said.contains("listening on") {
            if errors.read_line(&mut said)? == 0 {
                let _ = child.wait();
                bail!("tcpdump did not start: {said}");
            }
        }
        Ok(Self {
            child,
            errors,
            file,
        })
    }

    /// Ends the recording and reads it.
    pub fn stop(mut self) -> Result<Captured> {
        // It ends without what it has not read yet. It sleeps only when it has read all.
        let _always_more = eventually(Duration::from_secs(10), || self.sleeps());
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id())?);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT)?;
        let mut said = String::new();
        self.errors.read_to_string(&mut said)?;
        self.child.wait()?;
        let dropped = said
            .lines()
            .find(|l| l.contains("dropped by kernel"))
            .and_then(|l| l.split(' ').next()?.parse().ok())
            .with_context(|| format!("find what was dropped: {said}"))?;
        let mut captured = parse(fs::read(&self.file)?)?;
        captured.dropped = dropped;
        Ok(captured)
    }
}

impl PacketCapture {
    fn sleeps(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
        let stat = stat.unwrap_or_default();
        // Behind the name, which may hold anything.
        let state = stat.rsplit_once(") ").map(|(_, fields)| fields);
        state.is_some_and(|fields| fields.starts_with('S'))
    }
}

impl Drop for PacketCapture {
    fn drop(&mut self) {
        // Ended already where it was stopped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Captured {
    /// Whether the bytes stand in any packet, or across packets of one flow.
    #[must_use]
    pub fn contains(&self, bytes: &[u8]) -> bool {
        find(&self.raw, bytes) || self.flows.values().any(|flow| find(flow, bytes))
    }

    /// How many of `words`, all as long as the first, stand in any packet, or
    /// across packets of one flow.
    #[must_use]
    pub fn count(&self, words: &[String]) -> usize {
        let len = words.first().map_or(0, String::len);
        let words: HashSet<&[u8]> = words.iter().map(String::as_bytes).collect();
        if len < 2 {
            return 0;
        }
        // Nearly every place is told from all words by two bytes.
        let pair = |bytes: &[u8]| usize::from(bytes[0]) << 8 | usize::from(bytes[1]);
        let mut begins = vec![false; 1 << 16];
        for word in &words {
            begins[pair(word)] = true;
        }
        let texts = std::iter::once(&self.raw).chain(self.flows.values());
        let places = texts.flat_map(|text| text.windows(len));
        let found: HashSet<&[u8]> = places
            .filter(|place| begins[pair(place)] && words.contains(place))
            .collect();
        found.len()
    }
}

/// Searches by first byte, then compares: fast enough for some 100 MB.
fn find(text: &[u8], bytes: &[u8]) -> bool {
    let Some((first, _)) = bytes.split_first() else {
        return true;
    };
    let mut at = 0;
    while let Some(n) = text[at..].iter().position(|b| b == first) {
        at += n;
        if text[at..].starts_with(bytes) {
            return true;
        }
        at += 1;
    }
    false
}

/// Reads a pcap file of Ethernet frames.
fn parse(raw: Vec<u8>) -> Result<Captured> {
    const FILE_HEADER: usize = 24;
    const PACKET_HEADER: usize = 16;
    let mut captured = Captured::default();
    let mut at = FILE_HEADER;
    while let Some(header) = raw.get(at..at + PACKET_HEADER) {
        let length = u32::from_ne_bytes(header[8..12].try_into()?) as usize;
        at += PACKET_HEADER;
        let frame = raw.get(at..at + length).context("a whole packet")?;
        at += length;
        captured.packets += 1;
        if let Some((from, to, payload)) = tcp(frame) {
            let flow = captured.flows.entry((from, to)).or_default();
            flow.extend_from_slice(payload);
        }
    }
    captured.raw = raw;
    Ok(captured)
}

/// Addresses and payload of a TCP segment.
fn tcp(frame: &[u8]) -> Option<(SocketAddr, SocketAddr, &[u8])> {
    let packet = frame.get(14..)?;
    let (from, to, segment) = match frame.get(12..14)? {
        [0x08, 0x00] => ipv4(packet)?,
        [0x86, 0xdd] => ipv6(packet)?,
        _ => return None,
    };
    let port = |at: usize| {
        Some(u16::from_be_bytes(
            segment.get(at..at + 2)?.try_into().ok()?,
        ))
    };
    let header = usize::from(segment.get(12)? >> 4) * 4;
    Some((
        SocketAddr::new(from, port(0)?),
        SocketAddr::new(to, port(2)?),
        segment.get(header..)?,
    ))
}

const TCP: u8 = 6;

fn ipv4(packet: &[u8]) -> Option<(IpAddr, IpAddr, &[u8])> {
    if *packet.get(9)? != TCP {
        return None;
    }
    let address = |at: usize| {
        let bytes: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
        Some(IpAddr::from(Ipv4Addr::from(bytes)))
    };
    let header = usize::from(packet.first()? & 0xf) * 4;
    let total = usize::from(u16::from_be_bytes(packet.get(2..4)?.try_into().ok()?));
    // Offloads leave a length of 0 in packets of more than 64 KiB.
    let end = if total == 0 { packet.len() } else { total };
    Some((address(12)?, address(16)?, packet.get(header..end)?))
}

fn ipv6(packet: &[u8]) -> Option<(IpAddr, IpAddr, &[u8])> {
    if *packet.get(6)? != TCP {
        return None;
    }
    let address = |at: usize| {
        let bytes: [u8; 16] = packet.get(at..at + 16)?.try_into().ok()?;
        Some(IpAddr::from(Ipv6Addr::from(bytes)))
    };
    let length = usize::from(u16::from_be_bytes(packet.get(4..6)?.try_into().ok()?));
    let end = if length == 0 {
        packet.len()
    } else {
        40 + length
    };
    Some((address(8)?, address(24)?, packet.get(40..end)?))
}
