mod handshakes;
mod hostile;
mod matrix;
mod own;
mod records;
mod speed;
mod support;
mod wrong;
