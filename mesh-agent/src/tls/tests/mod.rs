mod handshakes;
mod support;
