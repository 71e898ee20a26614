//! Where a program is: the search that the system makes when it starts one.

use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// Where a program is looked for when nobody says where.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why a program would not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoProgram {
    /// There is nothing of that name.
    #[error("names a program that is not there: {0}")]
    Absent(PathBuf),
    /// There is something, and it cannot be run.
    #[error("names what is no program: {0}")]
    Unfit(PathBuf),
}

impl From<NoProgram> for io::Error {
    fn from(error: NoProgram) -> Self {
        match error {
            NoProgram::Absent(_) => Errno::NOENT.into(),
            NoProgram::Unfit(_) => Errno::ACCESS.into(),
        }
    }
}

/// The `PATH` of this process.
pub(super) fn own_path() -> OsString {
    std::env::var_os("PATH").unwrap_or_else(|| PATH.into())
}

/// The file of a program: the name itself if there is a slash in it, else the first in `path` that
/// can be run. `path` is `PATH` as the program gets it; by default that of this process.
///
/// # Errors
/// When there is none, or none that can be run.
pub fn find(program: &OsStr, path: Option<&OsStr>) -> Result<(PathBuf, Metadata), NoProgram> {
    let name = Path::new(program);
    let candidates: Vec<PathBuf> = if program.as_encoded_bytes().contains(&b'/') {
        vec![name.to_owned()]
    } else {
        let path = path.map_or_else(own_path, OsStr::to_owned);
        std::env::split_paths(&path).map(|folder| folder.join(name)).collect()
    };
    let mut unfit = None;
    for path in candidates {
        match std::fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() && metadata.permissions().mode() & 0o111 != 0 => {
                return Ok((path, metadata));
            }
            Ok(_) => unfit = unfit.or(Some(path)),
            Err(_) => {}
        }
    }
    Err(unfit.map_or_else(|| NoProgram::Absent(name.to_owned()), NoProgram::Unfit))
}

/// Whether the system itself would refuse it, and some C libraries hand it to a shell: a text that does not
/// say by what it is run.
pub(crate) fn is_nameless_script(path: &Path) -> bool {
    let mut start = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(4).read_to_end(&mut start));
    let is_text = |byte: &u8| byte.is_ascii_graphic() || byte.is_ascii_whitespace();
    read.is_ok() && !start.starts_with(b"#!") && start.iter().all(is_text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_as_the_system_finds_it() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (folder.path().join("1"), folder.path().join("2"));
        for (folder, mode) in [(&first, 0o644), (&second, 0o755)] {
            std::fs::create_dir(folder).unwrap();
            let file = folder.join("tool");
            std::fs::write(&file, "echo\n").unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        let path = std::env::join_paths([&first, &second]).unwrap();
        let found = find(OsStr::new("tool"), Some(&path)).unwrap().0;
        assert_eq!(found, second.join("tool"), "what cannot be run is passed over");
        assert!(is_nameless_script(&found) && !is_nameless_script(Path::new("/bin/sh")));
        let only = find(OsStr::new("tool"), Some(first.as_os_str()));
        assert_eq!(only.unwrap_err(), NoProgram::Unfit(first.join("tool")));
        let none = find(OsStr::new("no-such"), Some(&path));
        assert_eq!(none.unwrap_err(), NoProgram::Absent("no-such".into()));
        assert!(find(second.as_os_str(), None).is_err(), "a folder is none");
    }
}
