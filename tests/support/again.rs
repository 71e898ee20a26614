//! A test that runs again, in a process of its own: with a small disk, or another umask.
//!
//! Settings of a whole process must not affect other tests in it.

use std::path::PathBuf;
use std::process::Command;

/// Set in the process that runs a test again.
const AGAIN: &str = "BELLWIRE_TEST_AGAIN";

/// A disk of so many KiB for the test of this name: its folder, in the process that runs the test again,
/// which alone sees the disk. `None` in the first process, after that has ended.
///
/// # Panics
/// When the test fails there, and in CI when no disk can be mounted: elsewhere that is printed, and
/// nothing was tested.
pub fn on_small_disk(test: &str, kib: u32) -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os(AGAIN) {
        return Some(folder.into());
    }
    let folder = tempfile::tempdir().unwrap();
    let script = format!("mount -t tmpfs -o size={kib}k none \"$0\" && exec \"$@\"");
    for rights in [&["--mount"][..], &["--user", "--map-root-user", "--mount"]] {
        let mut unshare = Command::new("unshare");
        unshare.args(rights).args(["sh", "-c", &script]).arg(folder.path());
        if run(unshare.env(AGAIN, folder.path()), test) {
            return None;
        }
    }
    assert!(std::env::var_os("CI").is_none(), "no disk may be mounted here: run it as root");
    eprintln!("no disk can be mounted here: nothing was tested");
    None
}

/// Whether this process was started with the umask 077, as a service is. If not, the test of this name runs
/// again in one that was.
///
/// # Panics
/// When the test fails there.
pub fn under_umask_077(test: &str) -> bool {
    if std::env::var_os(AGAIN).is_some() {
        return true;
    }
    let mut shell = Command::new("sh");
    shell.args(["-c", "umask 077; exec \"$0\" \"$@\""]);
    assert!(run(shell.env(AGAIN, "umask"), test), "a test does not run by itself");
    false
}

/// A command line whose first program is process 1 of a pid namespace, with a `/proc` of its own. `None` without
/// the rights to make one: a line on standard error says so, and the test has proved nothing.
///
/// # Panics
/// In CI without the rights to make one.
pub fn as_process_1() -> Option<Command> {
    let namespace = ["--pid", "--fork", "--kill-child", "--mount-proc"];
    for rights in [&[][..], &["--user", "--map-root-user"]] {
        let mut unshare = Command::new("unshare");
        unshare.args(rights).args(namespace);
        let mut works = Command::new("unshare");
        works.args(rights).args(namespace).arg("true");
        if works.output().is_ok_and(|output| output.status.success()) {
            return Some(unshare);
        }
    }
    assert!(std::env::var_os("CI").is_none(), "no pid namespace may be made here: run it as root");
    eprintln!("no pid namespace may be made here: nothing was shown");
    None
}

/// Whether this process is process 1 of a pid namespace. If not, the test of this name runs again in one that is.
///
/// # Panics
/// When the test fails there, and in CI without the rights to make such a namespace.
pub fn is_process_1(test: &str) -> bool {
    if std::env::var_os(AGAIN).is_some() {
        return true;
    }
    if let Some(mut unshare) = as_process_1() {
        assert!(run(unshare.env(AGAIN, "process 1"), test), "a test does not run by itself");
    }
    false
}

/// Whether this process is in a network of its own whose name server, at port 53 of 127.0.0.1, is the test's. If not, the test
/// of this name runs again in one that is.
///
/// # Panics
/// When the test fails there, and in CI without the rights to make such a network.
pub fn has_own_name_server(test: &str) -> bool {
    if std::env::var_os(AGAIN).is_some() {
        return true;
    }
    let folder = tempfile::tempdir().unwrap();
    let conf = folder.path().join("resolv.conf");
    std::fs::write(&conf, "nameserver 127.0.0.1\n").unwrap();
    let script = "ip link set lo up && mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
    for rights in [&["--mount"][..], &["--user", "--map-root-user", "--mount"]] {
        let mut unshare = Command::new("unshare");
        unshare.args(rights).args(["--net", "sh", "-c", script]).arg(&conf);
        if run(unshare.env(AGAIN, "name server"), test) {
            return false;
        }
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "no network can be made here: run it as root, with iproute2"
    );
    eprintln!("no network can be made here: nothing was tested");
    false
}

/// Whether this process is in a network of its own, with a loopback interface and the right to add others. If not, the test
/// of this name runs again in one that is.
///
/// # Panics
/// When the test fails there, and in CI without the rights to make such a network.
pub fn has_own_network(test: &str) -> bool {
    if std::env::var_os(AGAIN).is_some() {
        return true;
    }
    for rights in [&[][..], &["--user", "--map-root-user"]] {
        let mut unshare = Command::new("unshare");
        unshare.args(rights).args(["--net", "sh", "-c", "ip link set lo up && exec \"$0\" \"$@\""]);
        if run(unshare.env(AGAIN, "network"), test) {
            return false;
        }
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "no network can be made here: run it as root, with iproute2"
    );
    eprintln!("no network can be made here: nothing was tested");
    false
}

/// Runs this program with one test alone; returns whether the test ran.
fn run(command: &mut Command, test: &str) -> bool {
    command.arg(std::env::current_exe().unwrap()).args(["--exact", test, "--nocapture"]);
    let Ok(output) = command.output() else { return false };
    let (stdout, stderr) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    // The exit code of a test program when a test failed.
    assert_ne!(output.status.code(), Some(101), "run again, by itself: {stdout}\n{stderr}");
    let ran = output.status.success();
    assert!(!ran || stdout.contains("1 passed"), "there is no test {test}: {stdout}");
    ran
}
