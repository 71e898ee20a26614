//! Commands as files: what `listen --save-dir` writes and `replay` reads. The event as it came, on
//! lines for people, and whose it was.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use bellwire_proto::DeviceId;
use bellwire_proto::stream::CommandEvent;
use serde::{Deserialize, Serialize};

/// A command with whose it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Saved {
    pub(crate) device: DeviceId,
    pub(crate) command: CommandEvent,
}

/// Makes the folder if need be, and a file in it for a moment: that it cannot be used is known before a command arrives.
pub(crate) fn prepare(folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let probe = folder.join(format!(".{}.new", std::process::id()));
    File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&probe)
        .and_then(|_| std::fs::remove_file(&probe))
        .with_context(|| folder.display().to_string())
}

/// Writes a command into a folder, which is made if need be; gives the file. It is whole or not
/// there. One that came twice is one file.
pub(crate) fn save(
    folder: &Path,
    device: &DeviceId,
    command: &CommandEvent,
) -> anyhow::Result<PathBuf> {
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let CommandEvent { id, seq, action, .. } = command;
    let path = folder.join(format!("{seq}-{action}-{id}.json"));
    let saved = Saved { device: device.clone(), command: command.clone() };
    let mut text = serde_json::to_vec_pretty(&saved)?;
    text.push(b'\n');
    let draft = path.with_extension("new");
    let written = (|| {
        let mut options = File::options();
        // Data may be secret.
        options.write(true).create(true).truncate(true).mode(0o600);
        options.open(&draft)?.write_all(&text)?;
        std::fs::rename(&draft, &path)
    })();
    written.with_context(|| path.display().to_string())?;
    Ok(path)
}

/// Reads what [`save`] wrote.
pub(crate) fn read(path: &Path) -> anyhow::Result<Saved> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    serde_json::from_str(&text)
        .with_context(|| format!("{} is not what listen --save-dir writes", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use bellwire_proto::{CommandId, Json, Seq, Timestamp};

    use super::*;

    #[test]
    fn what_is_saved_is_read_back_with_every_digit() {
        let folder = tempfile::tempdir().unwrap();
        let event = CommandEvent {
            id: CommandId::from_parts(1_700_000_000_000, [7; 10]),
            seq: Seq::new(1042),
            action: "deploy".parse().unwrap(),
            data: Json::parse(r#"{"v":1.50,"text":"é"}"#).unwrap(),
            attempt: 2,
            created_at: Timestamp::from_unix_ms(1),
            expires_at: Timestamp::from_unix_ms(2),
            ttl_s: 60,
            run_timeout_s: 61,
        };
        let device = "kiosk-7".parse().unwrap();
        let path = save(&folder.path().join("new"), &device, &event).unwrap();
        assert_eq!(
            path.file_name().unwrap().to_str().unwrap(),
            format!("1042-deploy-{}.json", event.id)
        );
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(read(&path).unwrap(), Saved { device, command: event });
    }
}
