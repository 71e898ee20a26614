//! Pages of lists as answers: bounded in bytes, and written item by item, so that no page is in
//! memory a second time as JSON.
//!
//! The length is counted before, which costs a second serialisation and gives a `Content-Length`.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::response::Response;
use bellwire_proto::limits::PAGE_BYTES_MAX;
use bellwire_proto::{Page, Problem};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use serde::Serialize;

use super::problem;
use crate::internal;
use crate::store::Cursor;

/// Bytes of JSON in one piece of the body, not counting its last item.
const CHUNK_BYTES: usize = 32 * 1024;
/// The JSON before the items.
const BEFORE: &[u8] = b"{\"items\":[";

/// 200 with the items of a page, or as many of them as fit into [`PAGE_BYTES_MAX`] bytes, and one at
/// least. `cursor` gives the cursor after an item.
///
/// # Errors
/// `internal` when an item has no JSON.
pub(super) fn page<T>(
    mut page: Page<T>,
    cursor: impl FnOnce(&T) -> Cursor,
) -> Result<Response, Problem>
where
    T: Serialize + Send + Unpin + 'static,
{
    let (fit, bytes) = fit(&page.items)?;
    if fit < page.items.len() {
        page.items.truncate(fit);
        page.next = page.items.last().map(|last| cursor(last).to_string());
    }
    let next = serde_json::to_string(&page.next).map_err(internal::failed)?;
    let after = format!("],\"next\":{next}}}").into_bytes();
    let body = PageBody {
        unwritten: (BEFORE.len() + bytes + after.len()) as u64,
        items: page.items.into_iter(),
        begun: false,
        after: Some(after),
    };
    Ok(problem::json_body(body.unwritten, Body::new(body)))
}

/// How many of the items fit on a page, and the bytes of their JSON with the commas between.
fn fit<T: Serialize>(items: &[T]) -> Result<(usize, usize), Problem> {
    let mut bytes = 0;
    for (n, item) in items.iter().enumerate() {
        let more = usize::from(n > 0) + json_bytes(item)?;
        if n > 0 && bytes + more > PAGE_BYTES_MAX {
            return Ok((n, bytes));
        }
        bytes += more;
    }
    Ok((items.len(), bytes))
}

/// The length of its JSON.
///
/// # Errors
/// `internal` when it has none.
pub(super) fn json_bytes(value: &impl Serialize) -> Result<usize, Problem> {
    struct Count(usize);
    impl io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    serde_json::to_writer(&mut count, value).map_err(internal::failed)?;
    Ok(count.0)
}

/// The items as they are written, one after the other.
struct PageBody<T> {
    items: std::vec::IntoIter<T>,
    /// Whether anything was written.
    begun: bool,
    /// The JSON after the items; `None` once it is written.
    after: Option<Vec<u8>>,
    unwritten: u64,
}

impl<T: Serialize + Unpin> http_body::Body for PageBody<T> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.after.is_none() {
            return Poll::Ready(None);
        }
        let mut chunk = Vec::new();
        let mut first = !std::mem::replace(&mut self.begun, true);
        if first {
            chunk.extend_from_slice(BEFORE);
        }
        while chunk.len() < CHUNK_BYTES {
            let Some(item) = self.items.next() else {
                chunk.extend(self.after.take().unwrap_or_default());
                break;
            };
            if !std::mem::replace(&mut first, false) {
                chunk.push(b',');
            }
            // It was counted before, so it has a JSON; and writing to memory does not fail.
            let _ = serde_json::to_writer(&mut chunk, &item);
        }
        self.unwritten = self.unwritten.saturating_sub(chunk.len() as u64);
        Poll::Ready(Some(Ok(Frame::data(chunk.into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.after.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.unwritten)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bellwire_proto::Seq;
    use http::header::CONTENT_LENGTH;
    use http_body_util::BodyExt;

    /// What a page of these texts is answered with, each `n`-th with the cursor `n`.
    async fn answered(items: Vec<String>) -> Page<String> {
        let whole = Page { items, next: Some("next".to_owned()) };
        let answer = page(whole, |last| Cursor::after_seq(Seq::new(last.len() as u64))).unwrap();
        let length = answer.headers()[CONTENT_LENGTH].to_str().unwrap().parse::<usize>().unwrap();
        let mut body = answer.into_body();
        let mut bytes = Vec::new();
        while let Some(frame) = body.frame().await {
            bytes.extend(frame.unwrap().into_data().unwrap());
        }
        assert_eq!(bytes.len(), length);
        assert!(bytes.len() <= PAGE_BYTES_MAX + 200, "{} bytes", bytes.len());
        serde_json::from_slice(&bytes).unwrap()
    }

    #[tokio::test]
    async fn a_page_is_the_json_that_one_string_would_be() {
        for items in [0, 1, 2, 3, 5_000] {
            let items: Vec<String> = (0..items).map(|n| format!("item {n}")).collect();
            let page = answered(items.clone()).await;
            assert_eq!((page.items, page.next.as_deref()), (items, Some("next")));
        }
    }

    #[tokio::test]
    async fn a_page_counts_what_its_items_are_as_json_and_continues_after_the_last_that_fits() {
        // A control character is six bytes of JSON.
        let items: Vec<String> = (0..20).map(|n| "\u{1}".repeat(64 * 1024 + n)).collect();
        let page = answered(items.clone()).await;
        assert_eq!(page.items, items[..10]);
        let next = Cursor::after_seq(Seq::new(64 * 1024 + 9)).to_string();
        assert_eq!(page.next, Some(next));
    }
}
