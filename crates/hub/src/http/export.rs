//! All deliveries of a command as JSON lines or CSV: read from the store page by page as the client takes them, so that
//! their number costs no memory.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::response::Response;
use bellwire_proto::limits::PAGE_ITEMS_MAX;
use bellwire_proto::{CommandId, Delivery, DeliveryState, Page, Problem, csv};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use http_body::Frame;

use super::caller::Caller;
use super::command::unknown;
use crate::driver::Driver;
use crate::store::{Cursor, PageRequest, ReadFuture, StoreError};

/// A form in which they are exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Export {
    /// One JSON object per line.
    JsonLines,
    /// RFC 4180, with a first row of names.
    Csv,
}

impl Export {
    /// The form that a client asks for by `Accept` (RFC 9110, section 12.5.1): that with the greatest weight, of several the
    /// first; `None` for a page as JSON.
    pub(super) fn accepted(headers: &HeaderMap) -> Option<Self> {
        let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let types = values.flat_map(|value| value.split(','));
        let mut best = (0.0, None);
        for item in types {
            let mut parts = item.split(';').map(str::trim);
            let form = match parts.next().unwrap_or_default().to_ascii_lowercase().as_str() {
                "application/jsonl" | "application/x-ndjson" => Some(Self::JsonLines),
                "text/csv" => Some(Self::Csv),
                "application/json" => None,
                _ => continue,
            };
            let weight = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
            let weight = weight.map_or(1.0, |weight| weight.parse::<f32>().unwrap_or(1.0));
            if weight > best.0 {
                best = (weight, form);
            }
        }
        best.1
    }

    fn media_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::JsonLines => "application/jsonl",
            Self::Csv => "text/csv; charset=utf-8",
        })
    }

    fn write(self, deliveries: &[Delivery], first: bool) -> io::Result<Bytes> {
        let mut out = Vec::new();
        if first && self == Self::Csv {
            out.extend_from_slice(csv::DELIVERY_COLUMNS.as_bytes());
        }
        for delivery in deliveries {
            match self {
                Self::JsonLines => {
                    serde_json::to_writer(&mut out, delivery)?;
                    out.push(b'\n');
                }
                Self::Csv => out.extend_from_slice(csv::delivery_row(delivery).as_bytes()),
            }
        }
        Ok(out.into())
    }
}

/// Which deliveries are exported, to whom.
#[derive(Clone)]
pub(super) struct ExportQuery {
    pub(super) command: CommandId,
    pub(super) state: Option<DeliveryState>,
    pub(super) caller: Caller,
}

/// 200 with all of them.
///
/// # Errors
/// `unknown_command`, `store_unavailable`, as long as nothing was answered.
pub(super) async fn export(
    driver: &Driver,
    form: Export,
    wanted: ExportQuery,
) -> Result<Response, Problem> {
    let first = wanted.read(driver, None).await?.ok_or_else(unknown)?;
    let rows = Rows { driver: driver.clone(), form, wanted, next: Next::Page(Some(first), true) };
    let mut response = Response::new(Body::new(rows));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, form.media_type());
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::VARY, HeaderValue::from_static("accept"));
    Ok(response)
}

impl ExportQuery {
    fn read(&self, driver: &Driver, after: Option<Cursor>) -> ReadFuture<Option<Page<Delivery>>> {
        let page = PageRequest { limit: PAGE_ITEMS_MAX, after };
        driver.store().deliveries(self.command, self.state, page, self.caller.visible())
    }

    /// A further page, as long as the caller is still allowed to have it: an export may take as long as its client pleases.
    fn read_on(&self, driver: &Driver, after: Cursor) -> ReadingOn {
        let (wanted, driver) = (self.clone(), driver.clone());
        Box::pin(async move {
            wanted.caller.still(&driver).await.map_err(io::Error::other)?;
            wanted.read(&driver, Some(after)).await.map_err(io::Error::other)
        })
    }
}

type ReadingOn = Pin<Box<dyn Future<Output = io::Result<Option<Page<Delivery>>>> + Send>>;

/// The body. One page is in memory, and the next is read when that has been taken.
struct Rows {
    driver: Driver,
    form: Export,
    wanted: ExportQuery,
    next: Next,
}

enum Next {
    /// A page, and whether it is the first; `None` when the command is gone.
    Page(Option<Page<Delivery>>, bool),
    ReadFuture(ReadingOn),
    End,
}

impl http_body::Body for Rows {
    type Data = Bytes;
    /// The connection ends without the last chunk: a client must not take a part for the whole.
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        loop {
            match &mut self.next {
                Next::End => return Poll::Ready(None),
                Next::ReadFuture(reading) => match reading.as_mut().poll(context) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(page)) => self.next = Next::Page(page, false),
                    Poll::Ready(Err(error)) => {
                        self.next = Next::End;
                        return Poll::Ready(Some(Err(error)));
                    }
                },
                Next::Page(page, first) => {
                    let (page, first) = (page.take(), *first);
                    self.next = Next::End;
                    let Some(Page { items, next }) = page else {
                        let gone = io::Error::other("the command was deleted meanwhile");
                        return Poll::Ready(Some(Err(gone)));
                    };
                    if let Some(next) = next {
                        let cursor = next.parse::<Cursor>();
                        let cursor = cursor.map_err(|bad| io::Error::other(StoreError::from(bad)));
                        let after = match cursor {
                            Ok(cursor) => cursor,
                            Err(error) => return Poll::Ready(Some(Err(error))),
                        };
                        self.next = Next::ReadFuture(self.wanted.read_on(&self.driver, after));
                    }
                    let piece = self.form.write(&items, first);
                    if piece.as_ref().is_ok_and(Bytes::is_empty) {
                        continue;
                    }
                    return Poll::Ready(Some(piece.map(Frame::data)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
