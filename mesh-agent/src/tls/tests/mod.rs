mod handshakes;
mod matrix;
mod records;
mod speed;
mod support;
mod wrong;
