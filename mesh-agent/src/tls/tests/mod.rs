mod handshakes;
mod records;
mod speed;
mod support;
