//! Deliveries as CSV (RFC 4180): the columns and their order are those of [`DELIVERY_COLUMNS`], with CRLF line ends.

use std::fmt::Write as _;

use crate::delivery::Delivery;

/// The columns of [`delivery_row`], as the first row of a file.
pub const DELIVERY_COLUMNS: &str = "device,state,attempt,exit_code,error,message,late,created_at,updated_at,progress,result,stdout,stderr\r\n";

/// A delivery as a row. What is not known is empty.
///
/// ```
/// # let json = r#"{"command":"01900000-0000-7000-8000-000000000000","seq":1,"device":"kiosk-7","action":"ping",
/// #  "state":"failed","attempt":1,"rev":3,"created_at":"2026-01-31T12:00:00.000Z","updated_at":"2026-01-31T12:00:01.000Z",
/// #  "expires_at":"2026-01-31T13:00:00.000Z","progress":null,"exit_code":2,"result":null,"stdout":"a \"b\", c\n",
/// #  "stderr":"","truncated":false,"error":{"code":"exit_status","message":null},"late":false}"#;
/// # let delivery: bellwire_proto::Delivery = serde_json::from_str(json)?;
/// assert_eq!(
///     bellwire_proto::csv::delivery_row(&delivery),
///     "kiosk-7,failed,1,2,exit_status,,false,2026-01-31T12:00:00.000Z,2026-01-31T12:00:01.000Z,,,\"a \"\"b\"\", c\n\",\r\n"
/// );
/// # Ok::<(), serde_json::Error>(())
/// ```
pub fn delivery_row(delivery: &Delivery) -> String {
    let mut row = String::new();
    let outcome = &delivery.outcome;
    let error = outcome.error.as_ref();
    // Writing to a string does not fail.
    let _ = write!(row, "{},{},{},", delivery.device, delivery.state, delivery.attempt);
    if let Some(code) = outcome.exit_code {
        let _ = write!(row, "{code}");
    }
    row.push(',');
    field(&mut row, error.map(|error| error.code.as_str()));
    field(&mut row, error.and_then(|error| error.message.as_deref()));
    let _ = write!(row, "{},{},{},", delivery.late, delivery.created_at, delivery.updated_at);
    if let Some(progress) = outcome.progress {
        let _ = write!(row, "{}", progress.get());
    }
    row.push(',');
    field(&mut row, outcome.result.as_ref().filter(|r| !r.is_null()).map(|r| r.as_str()));
    field(&mut row, outcome.stdout.as_deref());
    field(&mut row, outcome.stderr.as_deref());
    row.pop();
    row.push_str("\r\n");
    row
}

/// A field and the comma behind it, in quotes where it needs them.
fn field(row: &mut String, text: Option<&str>) {
    let text = text.unwrap_or_default();
    if text.contains([',', '"', '\r', '\n']) {
        row.push('"');
        row.push_str(&text.replace('"', "\"\""));
        row.push('"');
    } else {
        row.push_str(text);
    }
    row.push(',');
}
