//! `bellwire devices export` and `import`: names and labels as CSV (RFC 4180).
//!
//! What is written needs no guard against being taken for a formula by a spreadsheet: neither a name nor a label can have a
//! bracket, a quote, an exclamation mark or a pipe, without which no function and no program is called. So it can be
//! imported as it is.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::Path;
use std::pin::pin;

use anyhow::Context as _;
use bellwire_client::Controller;
use bellwire_client::api::{DeviceQuery, Error};
use bellwire_proto::labels::{LabelsPatch, is_label_key};
use bellwire_proto::limits::{DEVICES_FILE_BYTES_MAX, LABEL_DEVICES_MAX, PAGE_ITEMS_MAX};
use bellwire_proto::{Code, Device, DeviceId, Labels};
use csv::StringRecord;
use futures_util::TryStreamExt as _;
use serde_json::json;

use super::label;
use crate::args::fleet::{Export, Import, TransferCommand};
use crate::connect;
use crate::exit::{self, Usage};
use crate::out::{self, BOLD, Form};

pub(crate) async fn run(command: TransferCommand, form: Form) -> anyhow::Result<u8> {
    match command {
        TransferCommand::Export(args) => export(args, form).await,
        TransferCommand::Import(args) => import(args, form).await,
    }
}

async fn export(args: Export, form: Form) -> anyhow::Result<u8> {
    let hub = connect::controller(&args.hub)?;
    let query =
        DeviceQuery { select: args.select, limit: Some(PAGE_ITEMS_MAX), ..DeviceQuery::default() };
    let mut devices = pin!(hub.all_devices(query));
    if form == Form::Text {
        print(&["device", "labels"])?;
    }
    while let Some(device) = devices.try_next().await? {
        match form {
            Form::Json => out::json(&device)?,
            Form::Text => print(&[device.id.as_str(), &out::labels(&device.labels)])?,
        }
    }
    Ok(exit::OK)
}

fn print(cells: &[&str]) -> anyhow::Result<()> {
    let mut line = csv::WriterBuilder::new().from_writer(Vec::new());
    line.write_record(cells)?;
    let line = String::from_utf8(line.into_inner()?)?;
    Ok(out::line(format_args!("{}", line.trim_end()))?)
}

async fn import(args: Import, form: Form) -> anyhow::Result<u8> {
    connect::reads_once(&args.hub, args.file == Path::new("-"))?;
    let devices = read(&args.file)?;
    if args.dry_run {
        for (device, labels) in &devices {
            match form {
                Form::Json => out::json(&json!({ "id": device, "labels": labels }))?,
                Form::Text => {
                    out::line(format_args!("{BOLD}{device}{BOLD:#}  {}", out::labels(labels)))?;
                }
            }
        }
        let devices = match devices.len() {
            1 => "1 device".to_owned(),
            many => format!("{many} devices"),
        };
        out::note(&format!("{devices}; nothing was changed"));
        return Ok(exit::OK);
    }
    let hub = connect::controller(&args.hub)?;
    let (hub, replace) = (&hub, args.replace);
    let changes = devices.into_iter().map(|(device, labels)| async move {
        let changed = label::patiently(|| change(hub, &device, &labels, replace)).await;
        (device, changed)
    });
    label::each(changes, "imported before; the same file can be imported again", form).await
}

async fn change(
    hub: &Controller,
    device: &DeviceId,
    labels: &Labels,
    replace: bool,
) -> Result<Device, Error> {
    if replace {
        return hub.put_labels(device, labels).await;
    }
    let patch: LabelsPatch = labels.iter().map(|(k, v)| (k.clone(), Some(v.clone()))).collect();
    match hub.merge_labels(device, &patch).await {
        Err(Error::Refused { problem, .. }) if problem.code == Code::UnknownDevice => {
            hub.put_labels(device, labels).await
        }
        merged => merged,
    }
}

/// All lines of the file, or what is wrong with the first that is.
fn read(file: &Path) -> anyhow::Result<BTreeMap<DeviceId, Labels>> {
    if file == Path::new("-") {
        return Ok(parse(io::stdin().lock())?);
    }
    let name = file.display();
    let opened = std::fs::File::open(file).map_err(|e| Usage(format!("{name}: {e}")))?;
    parse(opened).with_context(|| name.to_string())
}

fn parse(from: impl Read) -> Result<BTreeMap<DeviceId, Labels>, Usage> {
    let unreadable = |e: csv::Error| Usage(format!("this is no CSV: {e}"));
    let mut text = String::new();
    let read = from.take(DEVICES_FILE_BYTES_MAX + 1).read_to_string(&mut text);
    read.map_err(|e| Usage(format!("this is no CSV in UTF-8: {e}")))?;
    if text.len() as u64 > DEVICES_FILE_BYTES_MAX {
        return Err(Usage(format!("a file has at most {DEVICES_FILE_BYTES_MAX} bytes; split it")));
    }
    // So that lines are counted as an editor does.
    if text.contains("\r\n") {
        text = text.replace("\r\n", "\n");
    }
    check_quotes(&text).map_err(Usage)?;
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
    let columns = reader.headers().map_err(unreadable)?.clone();
    // As spreadsheets write it: a mark of UTF-8 before the first name.
    let columns: Vec<&str> =
        columns.iter().map(|name| name.trim_start_matches('\u{feff}')).collect();
    let device_at = columns.iter().position(|name| *name == "device").ok_or_else(|| {
        Usage(format!(
            "the first line names the columns, separated by commas, and none of them is `device`, in lower case; they are {columns:?}"
        ))
    })?;
    for (n, column) in columns.iter().enumerate() {
        if n != device_at && *column != "labels" && !is_label_key(column) {
            return Err(Usage(format!(
                "line 1: the column {column:?} is neither device, nor labels, nor the key of a label"
            )));
        }
        if columns.iter().skip(n + 1).any(|other| other == column) {
            return Err(Usage(format!("line 1: there are two columns {column:?}")));
        }
    }
    let mut devices = BTreeMap::new();
    for row in reader.into_records() {
        let row = row.map_err(unreadable)?;
        let line = row.position().map_or(0, csv::Position::line);
        let (device, labels) = line_of(&columns, device_at, &row)
            .map_err(|why| Usage(format!("line {line}: {why}")))?;
        if devices.len() == LABEL_DEVICES_MAX {
            return Err(Usage(format!(
                "line {line}: a file has at most {LABEL_DEVICES_MAX} devices; split it"
            )));
        }
        let twice = format!("line {line}: {device} is on an earlier line too");
        if devices.insert(device, labels).is_some() {
            return Err(Usage(twice));
        }
    }
    Ok(devices)
}

/// What the library reads as if it were meant: a quote that nothing closes, as in a file that was cut off, and text behind one
/// that is closed (RFC 4180, section 2).
fn check_quotes(text: &str) -> Result<(), String> {
    let (mut line, mut opened) = (1, None);
    let mut cell = Cell::Begins;
    let mut rest = text.chars().peekable();
    while let Some(char) = rest.next() {
        cell = match (cell, char) {
            (Cell::Quoted, '"') if rest.peek() == Some(&'"') => {
                rest.next();
                Cell::Quoted
            }
            (Cell::Quoted, '"') => Cell::Closed,
            (Cell::Quoted, _) => Cell::Quoted,
            (_, ',' | '\n' | '\r') => Cell::Begins,
            (Cell::Begins, '"') => {
                opened = Some(line);
                Cell::Quoted
            }
            (Cell::Closed, char) if !char.is_whitespace() => {
                return Err(format!("line {line}: {char:?} follows a quote that is closed"));
            }
            (Cell::Begins, _) => Cell::Plain,
            (cell, _) => cell,
        };
        line += usize::from(char == '\n');
    }
    match (cell, opened) {
        (Cell::Quoted, Some(line)) => {
            Err(format!("line {line}: a quote is opened and not closed; is the file cut off?"))
        }
        _ => Ok(()),
    }
}

/// How far a cell has been read.
#[derive(Clone, Copy)]
enum Cell {
    Begins,
    Plain,
    Quoted,
    Closed,
}

fn line_of(
    columns: &[&str],
    device_at: usize,
    row: &StringRecord,
) -> Result<(DeviceId, Labels), String> {
    let name = row.get(device_at).unwrap_or_default();
    let device: DeviceId = name.parse().map_err(|e| format!("{name:?}: {e}"))?;
    let mut labels = Labels::new();
    let mut set = |key: &str, value: &str| {
        label::check(key, value).map_err(|why| format!("{key}={value} is no label: {why}"))?;
        match labels.insert(key.to_owned(), value.to_owned()) {
            Some(other) if other != value => {
                Err(format!("the label {key} is both {other:?} and {value:?}"))
            }
            _ => Ok(()),
        }
    };
    for (n, (column, cell)) in columns.iter().zip(row).enumerate() {
        match *column {
            _ if n == device_at || cell.is_empty() => {}
            "labels" => {
                for pair in cell.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
                    let (key, value) =
                        pair.split_once('=').ok_or_else(|| format!("{pair:?} is not KEY=VALUE"))?;
                    set(key, value)?;
                }
            }
            key => set(key, cell)?,
        }
    }
    Ok((device, labels))
}

#[cfg(test)]
mod tests;
