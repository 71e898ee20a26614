//! A command's data as a handler reads them: the bytes for standard input, and a file that exists while it runs.

use std::fs::Permissions;
use std::io::{self, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown,
};
use std::path::{Path, PathBuf};

use bellwire_proto::{CommandId, DeviceId, Json};

/// Other users may open a file of theirs whose name they know, and not list the folder.
const FOLDER_MODE: u32 = 0o711;
/// Where files go while the disk is full.
const IN_MEMORY: &str = "/dev/shm";

/// The user and the group that a file is given to, if they are not those of this process.
type Owner = Option<(u32, u32)>;

/// A folder for the data of running commands. One process alone creates files in it. It exists while there is a file in
/// it, so that a process killed while nothing runs leaves nothing behind.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// Used while the disk is full, so that an accepted command can still run.
    spare: Option<PathBuf>,
}

impl DataDir {
    /// That of the agent with this state folder, whose lock the caller has: see [`runtime_dir`]. The files of an
    /// agent that was killed are deleted.
    pub(crate) fn of_agent(state_dir: &Path, device: &DeviceId) -> Self {
        let folder = runtime_dir().unwrap_or_else(|| state_dir.to_owned());
        // Only one agent has this state folder; the folder in memory is shared by all agents.
        let id = std::fs::metadata(state_dir).ok().map(|found| (found.dev(), found.ino()));
        let spare = |(dev, ino)| Path::new(IN_MEMORY).join(format!("bellwire-{dev:x}-{ino:x}"));
        let this = Self { path: folder.join(format!("data-{device}")), spare: id.map(spare) };
        remove(&this.path);
        this.spare.iter().filter(|spare| is_own(spare)).for_each(|spare| remove(spare));
        this
    }

    /// A folder with a random name, below the one for temporary files.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn temporary() -> io::Result<Self> {
        let random = getrandom::u64().map_err(io::Error::other)?;
        let path = std::env::temp_dir().join(format!("bellwire-{random:016x}"));
        Ok(Self { path, spare: None })
    }

    /// A file that only its owner can read.
    pub(in crate::agent) fn file(
        &self,
        command: CommandId,
        data: &[u8],
        owner: Owner,
    ) -> io::Result<DataFile> {
        let name = command.to_string();
        let is_full = |error: &io::Error| {
            matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        };
        match (DataFile::make(&self.path, &name, data, owner), &self.spare) {
            (Err(error), Some(spare)) if is_full(&error) => {
                tracing::warn!(
                    %command, folder = %self.path.display(), "the disk is full: the data of a command are stored in memory"
                );
                DataFile::make(spare, &name, data, owner)
            }
            (made, _) => made,
        }
    }
}

/// The folder for data under systemd: in memory, and open to handlers with a user of their own. Without it, data go into
/// the state folder.
pub(in crate::agent) fn runtime_dir() -> Option<PathBuf> {
    systemd_dir("RUNTIME_DIRECTORY").filter(|folder| folder.is_dir())
}

/// The first folder in a variable by which systemd names those it has made for the service (systemd.exec(5)).
pub(in crate::agent) fn systemd_dir(variable: &str) -> Option<PathBuf> {
    let all = std::env::var_os(variable)?;
    std::env::split_paths(&all).next().filter(|folder| folder.is_absolute())
}

fn remove(path: &Path) {
    let removed = match path.is_dir() {
        true => std::fs::remove_dir_all(path),
        false => std::fs::remove_file(path),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "old data files cannot be deleted");
        }
        _ => {}
    }
}

/// Whether it is a folder of this process's user, not one that another user has put there.
fn is_own(folder: &Path) -> bool {
    let own = rustix::process::geteuid().as_raw();
    std::fs::symlink_metadata(folder).is_ok_and(|found| found.is_dir() && found.uid() == own)
}

fn make_folder(folder: &Path) -> io::Result<()> {
    match std::fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && is_own(folder) => Ok(()),
        // Not by the mode at creation: the service's umask would remove bits from it.
        made => made
            .and_then(|()| std::fs::set_permissions(folder, Permissions::from_mode(FOLDER_MODE))),
    }
}

/// The file with the data of a command. Deleted when dropped, and the folder with the last file.
pub(in crate::agent) struct DataFile(PathBuf);

impl DataFile {
    fn make(folder: &Path, name: &str, data: &[u8], owner: Owner) -> io::Result<Self> {
        let path = folder.join(name);
        let open = || {
            make_folder(folder)?;
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)
        };
        let mut file = match open() {
            // The end of another command has just removed the folder.
            Err(error) if error.kind() == io::ErrorKind::NotFound => open()?,
            opened => opened?,
        };
        let this = Self(path);
        file.write_all(data)?;
        if let Some((uid, gid)) = owner {
            fchown(&file, Some(uid), Some(gid))?;
        }
        Ok(this)
    }

    pub(in crate::agent) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for DataFile {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).ok();
        self.0.parent().map(std::fs::remove_dir);
    }
}

/// The data as a handler reads them: a JSON string as its text, `null` as nothing, the rest as compact JSON.
///
/// ```
/// use bellwire_client::agent::run::input_of;
/// use bellwire_proto::Json;
/// assert_eq!(input_of(&Json::parse(r#"{ "a": [1.50, "x y"] }"#)?), br#"{"a":[1.50,"x y"]}"#);
/// assert_eq!(input_of(&Json::parse(r#""two\nlines""#)?), b"two\nlines");
/// # Ok::<(), bellwire_proto::json::InvalidJson>(())
/// ```
pub fn input_of(data: &Json) -> Vec<u8> {
    if data.is_null() {
        return Vec::new();
    }
    match data.read::<String>() {
        Ok(text) => text.into_bytes(),
        Err(_) => compact(data.as_str()).into_bytes(),
    }
}

/// JSON without the white space between its tokens; numbers and member order are unchanged.
fn compact(json: &str) -> String {
    let (mut in_string, mut escaped) = (false, false);
    let compacted = json.chars().filter(|c| {
        let significant = in_string || !c.is_ascii_whitespace();
        if *c == '"' && !escaped {
            in_string = !in_string;
        }
        escaped = in_string && *c == '\\' && !escaped;
        significant
    });
    compacted.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_a_killed_agent_are_deleted_at_the_next_start() {
        // Each agent that was killed left one file behind.
        let state_dir = tempfile::tempdir().unwrap();
        let device = "kiosk".parse().unwrap();
        let id = "01890000-0000-7000-8000-000000000001".parse().unwrap();
        let other = "01890000-0000-7000-8000-000000000002".parse().unwrap();
        let killed = DataDir::of_agent(state_dir.path(), &device);
        let file = std::mem::ManuallyDrop::new(killed.file(id, b"secret", None).unwrap());
        assert!(file.path().exists());
        let next = DataDir::of_agent(state_dir.path(), &device);
        assert!(!file.path().exists(), "the old data are still there");
        let again = next.file(id, b"again", None).unwrap();
        drop((next.file(other, b"beside", None).unwrap(), again));
        assert_eq!(std::fs::read_dir(state_dir.path()).unwrap().count(), 0, "nothing remains");
    }

    /// On a full disk an accepted command failed without having run, since its data could not be written.
    #[test]
    fn on_a_full_disk_data_are_stored_in_memory_and_deleted_there_at_the_next_start() {
        let name = "agent::run::data::tests::on_a_full_disk_data_are_stored_in_memory_and_deleted_there_at_the_next_start";
        let Some(disk) = bellwire_testkit::on_small_disk(name, 64) else { return };
        let (state_dir, device) = (disk.join("state"), "kiosk".parse().unwrap());
        std::fs::create_dir(&state_dir).unwrap();
        std::fs::write(disk.join("filler"), vec![7; 1 << 20]).unwrap_err();
        let id = "01890000-0000-7000-8000-000000000001".parse().unwrap();
        let data = vec![b'x'; 4096];
        let killed = DataDir::of_agent(&state_dir, &device);
        let file = std::mem::ManuallyDrop::new(killed.file(id, &data, None).unwrap());
        assert!(file.path().starts_with(IN_MEMORY), "{:?}", file.path());
        let next = DataDir::of_agent(&state_dir, &device);
        assert!(!file.path().exists(), "the old data are still there");
        let again = next.file(id, &data, None).unwrap();
        assert_eq!(std::fs::read(again.path()).unwrap(), data);
        // A link that another user has put there is not followed.
        let folder = again.path().parent().unwrap().to_owned();
        drop(again);
        std::os::unix::fs::symlink("/tmp", &folder).unwrap();
        let refused = next.file(id, &data, None).map(|file| file.path().to_owned());
        std::fs::remove_file(&folder).unwrap();
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn compact_json_leaves_strings_unchanged() {
        let json = r#"{ "a b" : "\\\" c" , "d" : [ 1.0 , "\\" ] }"#;
        assert_eq!(compact(json), r#"{"a b":"\\\" c","d":[1.0,"\\"]}"#);
    }
}
