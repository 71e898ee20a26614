//! Paginated lists as one stream.

use std::collections::VecDeque;
use std::future::Future;

use bellwire_proto::Page;
use futures_core::Stream;
use futures_util::stream::try_unfold;

use super::Error;

/// The position in the pages.
struct Walk<T, F> {
    fetch: F,
    here: VecDeque<T>,
    /// The cursor of the next page, `Some(None)` for the first. `None` after the last.
    next: Option<Option<String>>,
}

/// All items from `first` on. A page is fetched once all items of the one before were yielded.
pub(super) fn items<T, F, A>(
    first: Option<String>,
    fetch: F,
) -> impl Stream<Item = Result<T, Error>> + Send
where
    T: Send,
    F: Fn(Option<String>) -> A + Send,
    A: Future<Output = Result<Page<T>, Error>> + Send,
{
    let walk = Walk { fetch, here: VecDeque::new(), next: Some(first) };
    try_unfold(walk, async |mut walk| {
        loop {
            if let Some(item) = walk.here.pop_front() {
                return Ok(Some((item, walk)));
            }
            let Some(cursor) = walk.next.take() else {
                return Ok(None);
            };
            let page = (walk.fetch)(cursor).await?;
            walk.next = page.next.map(Some);
            walk.here = page.items.into();
        }
    })
}
