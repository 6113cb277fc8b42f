//! Messages of gRPC in the data of a stream, counted as they pass.

const PREFIX: usize = 5;

pub(crate) use crate::model::grpc_status::http_status;

/// A flag and a length of four bytes stand before each message.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Messages {
    count: u64,
    /// Of the prefix, as far as it came.
    prefix: [u8; PREFIX],
    prefixed: usize,
    /// Of the message under way.
    left: usize,
}

impl Messages {
    /// Those that have begun.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn pass(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            if self.left > 0 {
                let passed = self.left.min(data.len());
                self.left -= passed;
                data = &data[passed..];
                continue;
            }
            let missing = (PREFIX - self.prefixed).min(data.len());
            let (begin, rest) = data.split_at(missing);
            self.prefix[self.prefixed..][..missing].copy_from_slice(begin);
            self.prefixed += missing;
            data = rest;
            if self.prefixed == PREFIX {
                let [_, length @ ..] = self.prefix;
                self.left = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
                self.prefixed = 0;
                self.count += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_counted_however_they_are_cut() {
        let mut bytes = Vec::new();
        for length in [0_u32, 1, 300, 0, 7] {
            bytes.push(0);
            bytes.extend(length.to_be_bytes());
            bytes.extend(vec![1; length as usize]);
        }
        for size in 1..bytes.len() {
            let mut messages = Messages::default();
            for part in bytes.chunks(size) {
                messages.pass(part);
            }
            assert_eq!(messages.count(), 5, "by {size}");
        }
    }
}
