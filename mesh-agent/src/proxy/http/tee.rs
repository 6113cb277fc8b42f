//! What follows the head of a request, kept for copies of the request.

use std::fmt;

use crate::http::h2::HeaderMap;
use crate::io::{Held, spare};

/// The body of a copy is at most this long: what it takes is held until the request
/// has gone.
const MAX_COPIED: usize = 64 * 1024;

/// What follows a head, all of it.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Rest<'r> {
    /// As it goes on: on HTTP/1 with its framing.
    pub(in crate::proxy) body: &'r [u8],
    /// Of HTTP/2.
    pub(in crate::proxy) trailers: Option<HeaderMap>,
}

/// Why there is nothing to be copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy) enum Unkept {
    /// The body is longer than any copy's.
    TooLong,
    /// There is no room for it now.
    NoRoom,
}

/// Who wants it: called once. Dropped without a call where the request does not go to
/// its end.
pub(in crate::proxy) type SendCopies = Box<dyn FnOnce(Result<Rest<'_>, Unkept>)>;

/// Sees what of a request is passed on.
pub(in crate::proxy) struct Tee {
    head: usize,
    /// Of the head, still to come.
    skip: usize,
    body: Held,
    then: Option<SendCopies>,
}

impl fmt::Debug for Tee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = self.body.len();
        write!(f, "Tee {{ skip: {}, body: {body} bytes }}", self.skip)
    }
}

impl Tee {
    /// `head`: so many bytes come first.
    pub(in crate::proxy) fn new(head: usize, then: SendCopies) -> Self {
        Self {
            head,
            skip: head,
            body: Held::default(),
            then: Some(then),
        }
    }

    /// The first `count` bytes of `parts` were passed on.
    pub(in crate::proxy) fn note(&mut self, parts: &[&[u8]], mut count: usize) {
        for part in parts {
            let passed = &part[..count.min(part.len())];
            count -= passed.len();
            let of_head = self.skip.min(passed.len());
            self.skip -= of_head;
            self.keep(&passed[of_head..]);
        }
    }

    fn keep(&mut self, more: &[u8]) {
        if self.then.is_none() || more.is_empty() {
            return;
        }
        let length = self.body.len() + more.len();
        let why = match () {
            () if length > MAX_COPIED => Unkept::TooLong,
            () if length > spare(MAX_COPIED) => Unkept::NoRoom,
            () => return self.body.extend(more),
        };
        self.body.clear();
        if let Some(then) = self.then.take() {
            then(Err(why));
        }
    }

    /// All of it is passed on once more; `head`: with another one, of so many bytes.
    pub(super) fn rewind(&mut self, head: Option<usize>) {
        self.head = head.unwrap_or(self.head);
        self.skip = self.head;
        self.body.clear();
    }

    /// The request has gone.
    pub(in crate::proxy) fn finish(self, trailers: Option<HeaderMap>) {
        if let Some(then) = self.then {
            let body = &self.body;
            then(Ok(Rest { body, trailers }));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    type Told = Rc<RefCell<Vec<Result<Vec<u8>, Unkept>>>>;

    fn tee(head: usize) -> (Tee, Told) {
        let told = Told::default();
        let then = told.clone();
        let then = move |rest: Result<Rest<'_>, Unkept>| {
            let body = rest.map(|rest| rest.body.to_vec());
            then.borrow_mut().push(body);
        };
        (Tee::new(head, Box::new(then)), told)
    }

    #[test]
    fn what_follows_the_head_is_kept_however_it_passes() {
        let (mut tee, told) = tee(4);
        tee.note(&[b"he", b"adbo"], 1);
        tee.note(&[b"e", b"adbo"], 4);
        tee.note(&[b"o", b"dy and more"], 3);
        tee.finish(None);
        assert_eq!(*told.borrow(), [Ok(b"body".to_vec())]);
    }

    #[test]
    fn what_goes_once_more_is_kept_once() {
        let (mut tee, told) = tee(2);
        tee.note(&[b"h1ab"], 4);
        tee.rewind(None);
        tee.note(&[b"h1abc"], 5);
        tee.finish(None);
        assert_eq!(*told.borrow(), [Ok(b"abc".to_vec())]);
    }

    #[test]
    fn what_goes_once_more_with_another_head_is_kept_without_it() {
        let (mut tee, told) = tee(2);
        tee.note(&[b"h1ab"], 4);
        tee.rewind(Some(4));
        tee.note(&[b"head", b"abc"], 7);
        tee.finish(None);
        assert_eq!(*told.borrow(), [Ok(b"abc".to_vec())]);
    }

    #[test]
    fn of_a_body_that_is_too_long_nothing_is_held() {
        let (mut tee, told) = tee(0);
        tee.note(&[&[b'x'; MAX_COPIED]], MAX_COPIED);
        assert_eq!(told.borrow().len(), 0);
        tee.note(&[b"x"], 1);
        assert_eq!(*told.borrow(), [Err(Unkept::TooLong)]);
        tee.note(&[b"more"], 4);
        assert_eq!(tee.body.len(), 0);
        tee.finish(None);
        assert_eq!(told.borrow().len(), 1, "it is told once");
    }

    #[test]
    fn a_request_that_does_not_go_to_its_end_has_no_copy() {
        let (mut tee, told) = tee(2);
        tee.note(&[b"h1ab"], 4);
        drop(tee);
        assert_eq!(told.borrow().len(), 0);
    }
}
