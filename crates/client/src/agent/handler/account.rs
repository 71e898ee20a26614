//! The user that a program runs as: a line of `/etc/passwd`.
//!
//! The file is read and not the system's name service (NSS), which a static program does not have: accounts of a directory
//! server are not known here.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

/// An account of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its name.
    pub name: String,
    /// Its user id.
    pub uid: u32,
    /// Its group id.
    pub gid: u32,
    /// Its home folder.
    pub home: PathBuf,
}

impl Account {
    /// The account with this name, or this user id.
    pub fn find(name_or_uid: &str) -> Option<Self> {
        let number: Option<u32> = name_or_uid.parse().ok();
        find_in(&passwd(), |account| account.name == name_or_uid)
            .or_else(|| find_in(&passwd(), |account| Some(account.uid) == number))
    }

    /// Its home folder, if there is one and it is the account's: system accounts name `/` or `/nonexistent`.
    pub fn own_home(&self) -> Option<PathBuf> {
        let found = std::fs::metadata(&self.home).ok()?;
        (self.home.is_absolute() && found.is_dir() && found.uid() == self.uid)
            .then(|| self.home.clone())
    }

    /// Whether this process runs as it.
    pub fn is_process(&self) -> bool {
        rustix::process::geteuid().as_raw() == self.uid
    }
}

/// The account that this process runs as, if the file lists it.
pub fn of_process() -> Option<Account> {
    find_in(&passwd(), Account::is_process)
}

fn passwd() -> String {
    let bytes = std::fs::read("/etc/passwd").unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn find_in(passwd: &str, matches: impl Fn(&Account) -> bool) -> Option<Account> {
    passwd.lines().filter_map(parse).find(matches)
}

/// A line of passwd(5): `name:password:uid:gid:comment:home:shell`.
fn parse(line: &str) -> Option<Account> {
    let mut fields = line.split(':');
    let name = fields.next()?.to_owned();
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    let home = fields.nth(1)?.into();
    Some(Account { name, uid, gid, home })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_found_by_name_and_by_number() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\n# no\nkiosk:x:1000:100::/home/kiosk:\n";
        let kiosk = find_in(passwd, |a| a.name == "kiosk").unwrap();
        assert_eq!((kiosk.uid, kiosk.gid, kiosk.home), (1000, 100, "/home/kiosk".into()));
        assert!(find_in(passwd, |a| a.name == "nobody").is_none());
        assert_eq!(Account::find("0").map(|a| a.name), Some("root".to_owned()));
    }

    /// An account with the home `/nonexistent`, or `/tmp`, has no place that is its own.
    #[test]
    fn a_home_counts_only_if_it_is_the_accounts() {
        let home = tempfile::tempdir().unwrap();
        let uid = rustix::process::geteuid().as_raw();
        let account = |uid, home: &std::path::Path| Account {
            name: "kiosk".into(),
            uid,
            gid: 0,
            home: home.into(),
        };
        assert_eq!(account(uid, home.path()).own_home().as_deref(), Some(home.path()));
        assert_eq!(account(uid + 1, home.path()).own_home(), None);
        assert_eq!(account(uid, "/nonexistent".as_ref()).own_home(), None);
    }
}
