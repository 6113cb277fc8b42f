mod handshakes;
mod hostile;
mod matrix;
mod own;
mod records;
mod speed;
pub(crate) mod support;
pub(crate) mod wrong;
