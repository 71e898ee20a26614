//! What a program gets, and what its output and exit become.

use std::collections::BTreeSet;
use std::path::Path;

use bellwire_client::agent::handler::account::{self, Account};
use bellwire_client::agent::handler::{Environment, Program};
use bellwire_client::agent::run::CompletionState;
use bellwire_proto::limits::{OUTPUT_BYTES_MAX, RESULT_BYTES_MAX};
use bellwire_testkit::under_umask_077;

use crate::support::*;

#[tokio::test]
async fn data_comes_on_standard_input_as_text_nothing_or_compact_json() {
    for (data, read) in [
        ("\"two\\nlines é\"", "two\nlines é"),
        ("null", ""),
        ("{ \"v\" : 1.50 , \"w\": [ true ] }", "{\"v\":1.50,\"w\":[true]}"),
        ("42", "42"),
    ] {
        assert_eq!(stdout(&finish(&sh("cat"), data).await), read, "{data}");
        let file = finish(&sh("cat \"$BELLWIRE_DATA_FILE\""), data).await;
        assert_eq!(stdout(&file), read, "{data} in the file");
    }
}

#[tokio::test]
async fn only_its_user_can_read_the_data_file_and_it_is_deleted_at_the_end() {
    let completion =
        finish(&sh("stat -c %a \"$BELLWIRE_DATA_FILE\"; echo \"file $BELLWIRE_DATA_FILE\""), "1")
            .await;
    assert!(stdout(&completion).starts_with("600\n"), "{completion:?}");
    assert!(!Path::new(line(&completion, "file ")).exists());
}

#[tokio::test]
async fn another_user_can_read_its_data_file_whatever_the_umask_and_not_list_the_folder() {
    if !under_umask_077(
        "started::another_user_can_read_its_data_file_whatever_the_umask_and_not_list_the_folder",
    ) {
        return;
    }
    let script = "stat -c %a \"${BELLWIRE_DATA_FILE%/*}\" \"$BELLWIRE_DATA_FILE\"";
    assert_eq!(stdout(&completion_of(script).await), "711\n600\n");
    if rustix::process::geteuid().is_root() {
        let nobody = Account::find("nobody").unwrap();
        let reader =
            sh("id -un; cat \"$BELLWIRE_DATA_FILE\"; ls \"${BELLWIRE_DATA_FILE%/*}\" || echo no");
        let completion = finish(&reader.user(nobody), "\"his own \"").await;
        assert_eq!(stdout(&completion), "nobody\nhis own no\n", "{completion:?}");
    }
}

#[tokio::test]
async fn the_environment_is_cleared_but_for_what_is_promised() {
    let more = vec![("LANG".into(), "C".into())];
    let env = Program::new("env", [""; 0]).environment(Environment::Cleared(more));
    let completion = finish(&env, "null").await;
    let names: BTreeSet<&str> =
        stdout(&completion).lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    let promised = [
        "BELLWIRE_ACTION",
        "BELLWIRE_ATTEMPT",
        "BELLWIRE_COMMAND",
        "BELLWIRE_DATA_FILE",
        "BELLWIRE_DEVICE",
        "BELLWIRE_EXPIRES_AT",
        "HOME",
        "LANG",
        "PATH",
    ];
    assert_eq!(names, promised.into());
    assert_eq!(line(&completion, "BELLWIRE_ACTION="), "hello");
    assert_eq!(line(&completion, "BELLWIRE_DEVICE="), "kiosk");
    assert_eq!(line(&completion, "BELLWIRE_ATTEMPT="), "2");
    assert_eq!(line(&completion, "BELLWIRE_EXPIRES_AT="), "2023-11-14T22:13:20.000Z");
}

#[tokio::test]
async fn arguments_reach_no_shell_and_data_become_no_argument() {
    let program = Program::new("/bin/echo", ["$HOME", "`id`", "; ls", "*"]);
    let completion = finish(&program, "\"data\"").await;
    assert_eq!(stdout(&completion), "$HOME `id` ; ls *\n");
}

/// Some C libraries hand what the kernel refuses to a shell: a file of zeros, as a power cut leaves one, had
/// `succeeded`.
#[tokio::test]
async fn what_the_kernel_does_not_run_is_not_handed_to_a_shell() {
    let folder = tempfile::tempdir().unwrap();
    for (text, code) in [
        ("id\n", Some("spawn_failed")),
        ("\0\0\0\0\0\0", Some("spawn_failed")),
        ("\u{feff}#!/bin/sh\nid\n", Some("spawn_failed")),
        ("\u{7f}ELF\nid\n", Some("spawn_failed")),
        ("#!/bin/sh\nid\n", None),
    ] {
        let path = folder.path().join(format!("script-{}", text.len()));
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
        let completion = finish(&Program::new(path, [""; 0]), "null").await;
        assert_eq!(completion.outcome.error.map(|error| error.code).as_deref(), code, "{text:?}");
    }
}

#[tokio::test]
async fn folder_and_umask_are_as_configured() {
    let program = sh("pwd; umask").cwd("/").umask(0o077);
    assert_eq!(stdout(&finish(&program, "null").await), "/\n0077\n");
    let program = sh("umask").umask(0o027);
    assert_eq!(stdout(&finish(&program, "null").await), "0027\n");
}

/// A relative program was checked in the folder of the agent and executed in `cwd`: a program in `cwd` was not found, and
/// one of the same name in the agent's folder was checked in its place.
#[tokio::test]
async fn a_relative_program_is_resolved_in_the_folder_that_it_starts_in() {
    // Relative to this process, so that no path in it is absolute.
    let folder = tempfile::tempdir_in(".").unwrap();
    let folder = Path::new(folder.path().file_name().unwrap());
    std::fs::create_dir(folder.join("bin")).unwrap();
    for (name, answer) in [("tool", "in the folder"), ("bin/tool", "in bin")] {
        std::fs::write(folder.join(name), format!("#!/bin/sh\necho {answer}; pwd\n")).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.join(name), mode).unwrap();
    }
    let pwd = folder.canonicalize().unwrap();
    for (program, answer) in
        [("./tool", "in the folder"), ("bin/tool", "in bin"), ("tool", "in bin")]
    {
        let program = Program::new(program, [""; 0])
            .environment(Environment::Cleared(vec![("PATH".into(), "bin:/bin".into())]))
            .cwd(folder);
        let completion = finish(&program, "null").await;
        assert_eq!(code(&completion), None, "{program}: {completion:?}");
        assert_eq!(stdout(&completion), format!("{answer}\n{}\n", pwd.display()), "{program}");
    }
    // A file that is only in the folder of this process is not found.
    let completion = finish(&Program::new("./Cargo.toml", [""; 0]).cwd("/"), "null").await;
    let message = completion.outcome.error.unwrap().message.unwrap();
    assert!(message.contains("No such file"), "{message}");
}

#[tokio::test]
async fn a_program_gets_descriptors_0_to_3_whatever_the_agent_has_open() {
    // As one that the agent's parent has left open: it does not close at exec by itself.
    let file = std::fs::File::open("/etc/passwd").unwrap();
    rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).unwrap();
    let completion = finish(&Program::new("ls", ["/proc/self/fd"]), "null").await;
    assert_eq!(stdout(&completion), "0\n1\n2\n3\n4\n", "4 is the folder that ls reads");
}

#[tokio::test]
async fn it_leads_a_process_group_of_its_own() {
    let completion =
        completion_of("read -r pid name state parent group rest < /proc/$$/stat; echo $pid $group")
            .await;
    let (pid, group) = stdout(&completion).trim().split_once(' ').unwrap();
    assert_eq!(pid, group);
}

#[tokio::test]
async fn exit_codes_and_signals_are_distinguished() {
    let completion = completion_of("echo fine").await;
    assert_eq!(
        (completion.state, completion.outcome.exit_code, code(&completion)),
        (CompletionState::Succeeded, Some(0), None)
    );
    let completion = completion_of("echo oops >&2; exit 3").await;
    assert_eq!(
        (completion.state, completion.outcome.exit_code, code(&completion)),
        (CompletionState::Failed, Some(3), Some("exit_status"))
    );
    assert_eq!(completion.outcome.stderr.as_deref(), Some("oops\n"));
    let completion = completion_of("kill -9 $$").await;
    assert_eq!(
        (completion.state, completion.outcome.exit_code, code(&completion)),
        (CompletionState::Failed, Some(137), Some("signal"))
    );
}

#[tokio::test]
async fn what_cannot_be_started_has_failed_and_says_why() {
    for (program, why) in [
        (
            Program::new("/no/such/program", [""; 0]),
            "/no/such/program cannot be started: No such file",
        ),
        (Program::new("/etc/passwd", [""; 0]), "Permission denied"),
        (sh("true").cwd("/no/such/folder"), "cannot be started in /no/such/folder: no such folder"),
    ] {
        let completion = finish(&program, "null").await;
        assert_eq!(
            (completion.state, code(&completion)),
            (CompletionState::Failed, Some("spawn_failed"))
        );
        let message = completion.outcome.error.unwrap().message.unwrap();
        assert!(message.contains(why), "{message}");
    }
}

#[tokio::test]
async fn a_program_need_not_read_its_input_and_may_read_a_lot() {
    let data = format!("\"{}\"", "x".repeat(1 << 20));
    assert_eq!(finish(&sh("exit 0"), &data).await.state, CompletionState::Succeeded);
    let completion = finish(&sh("tee /dev/stderr"), &data).await;
    assert_eq!(stdout(&completion).len(), OUTPUT_BYTES_MAX);
    assert_eq!(completion.outcome.stderr.as_ref().unwrap().len(), OUTPUT_BYTES_MAX);
    assert!(completion.outcome.is_truncated());
}

#[tokio::test]
async fn the_last_64_kib_are_reported_and_cut_between_characters() {
    let completion = completion_of("yes é€ | head -c 300000; printf 'end\\377'").await;
    let text = stdout(&completion);
    assert!(completion.outcome.is_truncated() && text.ends_with("end\u{fffd}"));
    assert!(text.len() <= OUTPUT_BYTES_MAX && text.len() > OUTPUT_BYTES_MAX - 4);
    assert!(!text[..10].contains('\u{fffd}'), "{:?}", &text[..10]);
}

#[tokio::test]
async fn a_result_comes_on_descriptor_3_or_in_the_last_marker_line() {
    for (script, result) in [
        ("echo '{ \"a\": 1.0 }' >&3", "{ \"a\": 1.0 }"),
        ("echo BELLWIRE_RESULT=1; echo BELLWIRE_RESULT=[2]; echo done", "[2]"),
        ("printf 'BELLWIRE_RESULT=\"no line end\"'", "\"no line end\""),
        ("echo BELLWIRE_RESULT=1; echo 2 >&3", "2"),
        ("echo BELLWIRE_RESULT=null", "null"),
    ] {
        let completion = completion_of(script).await;
        assert_eq!(
            (completion.state, code(&completion)),
            (CompletionState::Succeeded, None),
            "{script}"
        );
        assert_eq!(completion.outcome.result.unwrap().as_str(), result, "{script}");
    }
    let completion = completion_of("echo ' BELLWIRE_RESULT=1'; echo BELLWIRE_RESULT=2").await;
    assert_eq!(stdout(&completion), " BELLWIRE_RESULT=1\nBELLWIRE_RESULT=2\n", "marker lines stay");
    assert_eq!(completion_of("true").await.outcome.result, None);
}

#[tokio::test]
async fn an_invalid_result_is_an_error_and_leaves_the_state() {
    let large = format!("head -c {RESULT_BYTES_MAX} /dev/zero | tr '\\0' 1 >&3; echo 1 >&3");
    let huge = "yes 11111111 | tr -d '\\n' | head -c 1000000 >&3".to_owned();
    for script in ["echo nope >&3".to_owned(), "echo BELLWIRE_RESULT={".to_owned(), large, huge] {
        for (exit, state) in [(0, CompletionState::Succeeded), (3, CompletionState::Failed)] {
            let completion = completion_of(&format!("{script}; exit {exit}")).await;
            assert_eq!(
                (completion.state, completion.outcome.exit_code),
                (state, Some(exit)),
                "{script}"
            );
            assert_eq!(
                (code(&completion), &completion.outcome.result),
                (Some("bad_result"), &None),
                "{script}"
            );
        }
    }
}

#[tokio::test]
async fn progress_is_reported_and_an_invalid_value_is_ignored() {
    let script = "echo BELLWIRE_PROGRESS=40; echo BELLWIRE_PROGRESS=200; echo BELLWIRE_PROGRESS=x; \
        printf 'BELLWIRE_PROG'; printf 'RESS=55.5\\n'";
    let begun = begin(&sh(script), command("null"), LONG).at(55.5).await;
    assert_eq!(begun.end().await.into_completion().state, CompletionState::Succeeded);
}

#[tokio::test]
async fn a_program_with_a_user_has_its_ids_and_home() {
    let Some(own) = account::of_process() else { return };
    // Every user may run a program as itself.
    let completion = finish(&sh("id -u; echo $HOME").user(own.clone()), "null").await;
    assert_eq!(stdout(&completion), format!("{}\n{}\n", own.uid, own.home.display()));
    let other = if own.name == "nobody" { "daemon" } else { "nobody" };
    let nobody = Account::find(other).expect("every Linux has both");
    let program = sh("id -u; id -G; cat \"$BELLWIRE_DATA_FILE\"").user(nobody.clone());
    let completion = finish(&program, "\"for nobody\"").await;
    if own.uid == 0 {
        assert_eq!(stdout(&completion), format!("{}\n{}\nfor nobody", nobody.uid, nobody.gid));
    } else {
        assert_eq!(code(&completion), Some("spawn_failed"), "only root can become another");
    }
}
