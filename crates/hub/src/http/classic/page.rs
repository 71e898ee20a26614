//! Answers that are not streams: empty, or a line of HTML, byte for byte as the original's.

use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, StatusCode, header};

/// `<html><title>404: Not Found</title><body>404: …</body></html>` and LF. The message is HTML;
/// without one it is the status's own name.
pub(super) fn page(status: StatusCode, message: Option<&str>) -> Response {
    let code = status.as_u16();
    let name = status.canonical_reason().unwrap_or_default();
    let message = message.unwrap_or(name);
    let html =
        format!("<html><title>{code}: {name}</title><body>{code}: {message}</body></html>\n");
    answer(status, Body::from(html))
}

/// An answer without a body.
pub(super) fn empty(status: StatusCode) -> Response {
    answer(status, Body::empty())
}

fn answer(status: StatusCode, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let html = HeaderValue::from_static("text/html; charset=UTF-8");
    response.headers_mut().insert(header::CONTENT_TYPE, html);
    response
}

/// Text as HTML, as Python's `html.escape` writes it.
pub(super) fn escaped(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#x27;"),
            _ => html.push(char),
        }
    }
    html
}
