//! What `explain` is asked, by a command line or by another program.

use crate::{admin, explain};

/// The question that the words of another program or a command line ask.
pub(crate) fn words(question: &admin::Question) -> explain::Words<'_> {
    let request = question.method.as_deref().zip(question.url.as_deref());
    explain::Words {
        from: &question.from,
        to: &question.to,
        port: question.port,
        request: request.map(|(method, url)| explain::RequestWords {
            method,
            url,
            headers: &question.headers,
        }),
        sni: question.sni.as_deref(),
    }
}
