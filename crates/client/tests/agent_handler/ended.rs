//! How a program is ended: limit, cancel, shutdown, kill.

use std::path::Path;
use std::time::Duration;

use bellwire_client::agent::handler::{Environment, orphans};
use bellwire_client::agent::run::{CompletionState, RunEnd, Stop};
use bellwire_testkit::{is_process_1, runs};

use crate::support::*;

#[tokio::test]
async fn a_timeout_ends_the_program_and_its_children() {
    let program = sh("sleep 1000 & echo child $!; wait");
    let completion = match begin(&program, command("null"), Duration::from_secs(2)).end().await {
        RunEnd::Finished(completion) => completion,
        stopped => panic!("{stopped:?}"),
    };
    assert_eq!((completion.state, code(&completion)), (CompletionState::Failed, Some("timeout")));
    assert_eq!(completion.outcome.exit_code, Some(128 + 15));
    assert!(!runs(line(&completion, "child ")), "the grandchild runs on");
}

#[tokio::test]
async fn a_cancelled_program_gets_term_first_and_its_output_is_reported() {
    let begun = begin(
        &sh("trap 'echo asked; exit 0' TERM; echo BELLWIRE_PROGRESS=1; sleep 1000 & wait"),
        command("null"),
        LONG,
    );
    let begun = begun.at(1.0).await;
    begun.stop.send(Stop::Cancel);
    let RunEnd::Stopped(completion) = begun.end().await else { panic!("it was stopped") };
    assert_eq!((completion.state, code(&completion)), (CompletionState::Cancelled, None));
    assert!(stdout(&completion).ends_with("asked\n"), "{completion:?}");
}

#[tokio::test]
async fn a_program_that_ignores_term_is_killed_with_its_grandchildren() {
    let script = "trap '' TERM; sh -c 'sleep 1000 & echo child $!; echo BELLWIRE_PROGRESS=1; wait' & \
        while :; do sleep 1000; done";
    let program = sh(script).kill_after(Duration::from_millis(100));
    let begun = begin(&program, command("null"), LONG).at(1.0).await;
    begun.stop.send(Stop::Cancel);
    let RunEnd::Stopped(completion) = begun.end().await else { panic!("it was stopped") };
    assert_eq!(
        (completion.state, completion.outcome.exit_code),
        (CompletionState::Cancelled, Some(137))
    );
    assert!(!runs(line(&completion, "child ")), "the grandchild runs on");
}

#[tokio::test]
async fn a_grandchild_gets_kill_after_too_when_the_leader_exits_at_once() {
    let script = "sh -c 'trap \"echo cleaned; exit\" TERM; echo BELLWIRE_PROGRESS=1; sleep 1000 & wait' & wait";
    let begun = begin(&sh(script), command("null"), LONG).at(1.0).await;
    begun.stop.send(Stop::Cancel);
    let completion = begun.end().await.into_completion();
    assert!(stdout(&completion).ends_with("cleaned\n"), "{completion:?}");
}

/// In a container without an init the exit status of orphans is not collected: a group whose members were all dead counted
/// as alive until `kill_after`.
#[tokio::test]
async fn a_group_of_dead_processes_has_ended_before_they_are_collected() {
    if !is_process_1("ended::a_group_of_dead_processes_has_ended_before_they_are_collected") {
        return;
    }
    let script = "sleep 1000 & echo child $!; echo BELLWIRE_PROGRESS=1; wait";
    let begun = begin(&sh(script).kill_after(LONG), command("null"), LONG).at(1.0).await;
    begun.stop.send(Stop::Cancel);
    let ended = begun.end().await;
    let RunEnd::Stopped(completion) = &ended else { panic!("it was stopped: {ended:?}") };
    let child = line(completion, "child ");
    assert!(Path::new("/proc").join(child).exists() && !runs(child), "it was collected: {child}");
}

#[tokio::test]
async fn when_the_leader_exits_by_itself_its_children_run_on() {
    let completion = completion_of("sleep 1000 & echo child $!").await;
    let child = line(&completion, "child ");
    let alive = runs(child);
    let pid = rustix::process::Pid::from_raw(child.parse().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
    assert!(alive, "{completion:?}");
    assert_eq!(completion.state, CompletionState::Succeeded);
}

#[tokio::test]
async fn an_end_by_a_signal_while_the_agent_stops_is_interrupted() {
    let fifo = tempfile::tempdir().unwrap();
    let path = fifo.path().join("go");
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, 0o600.into()).unwrap();
    for (last, stopped) in [("kill -9 $$", true), ("exit 0", false), ("exit 3", false)] {
        let script = format!("echo BELLWIRE_PROGRESS=1; read line < {}; {last}", path.display());
        let begun = begin(&sh(&script), command("null"), LONG).at(1.0).await;
        begun.stop.send(Stop::Shutdown);
        let go = path.clone();
        tokio::task::spawn_blocking(move || std::fs::write(go, "go\n").unwrap()).await.unwrap();
        match begun.end().await {
            RunEnd::Stopped(completion) => {
                assert!(stopped, "{last}");
                assert_eq!(code(&completion), Some("interrupted"));
            }
            RunEnd::Finished(_) => assert!(!stopped, "{last}"),
        }
    }
}

#[tokio::test]
async fn a_crash_before_the_shutdown_is_not_interrupted() {
    // A crash within the second in which its output was still read, and then a TERM to the agent:
    // reported as interrupted, and with on_restart = "rerun" run again.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pid");
    let script =
        "sleep 1000 & echo child $!; echo $$ > \"$PID_FILE\"; echo BELLWIRE_PROGRESS=1; kill -9 $$";
    let environment = Environment::Cleared(vec![("PID_FILE".into(), file.clone().into())]);
    let begun = begin(&sh(script).environment(environment), command("null"), LONG).at(1.0).await;
    let leader = std::fs::read_to_string(file).unwrap();
    let process = Path::new("/proc").join(leader.trim());
    // Its exit status is collected, so the agent knows its end.
    let collected = async {
        while process.exists() {
            tokio::task::yield_now().await
        }
    };
    within("the leader to be dead", collected).await;
    begun.stop.send(Stop::Shutdown);
    let ended = begun.end().await;
    let RunEnd::Finished(completion) = &ended else { panic!("by itself: {ended:?}") };
    let child =
        rustix::process::Pid::from_raw(line(completion, "child ").parse().unwrap()).unwrap();
    rustix::process::kill_process(child, rustix::process::Signal::KILL).ok();
    assert_eq!(code(completion), Some("signal"));
}

#[tokio::test]
async fn a_kill_request_kills_at_once() {
    let program =
        sh("trap '' TERM; echo BELLWIRE_PROGRESS=1; while :; do sleep 1000; done").kill_after(LONG);
    let begun = begin(&program, command("null"), LONG).at(1.0).await;
    begun.stop.send(Stop::Kill);
    let RunEnd::Stopped(completion) = begun.end().await else { panic!("it was stopped") };
    assert_eq!((code(&completion), completion.outcome.exit_code), (Some("interrupted"), Some(137)));
    // Also after a cancel, which remains the reason.
    let begun = begin(&program, command("null"), LONG).at(1.0).await;
    begun.stop.send(Stop::Cancel);
    begun.stop.send(Stop::Kill);
    let ended = begun.end().await;
    assert!(matches!(ended, RunEnd::Stopped(_)), "{ended:?}");
}

#[tokio::test]
async fn dropping_a_run_kills_its_process_group() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pid");
    let script =
        format!("sleep 1000 & echo $! > {}; echo BELLWIRE_PROGRESS=1; wait", file.display());
    let begun = begin(&sh(&script), command("null"), LONG).at(1.0).await;
    begun.ended.abort();
    assert!(begun.ended.await.unwrap_err().is_cancelled());
    let child = std::fs::read_to_string(file).unwrap();
    let gone = async {
        while runs(child.trim()) {
            tokio::task::yield_now().await
        }
    };
    within("the grandchild to be gone", gone).await;
}

#[tokio::test]
async fn orphans_of_a_dead_agent_are_found_and_killed() {
    let command = command("null");
    let id = command.id;
    let program = sh("sh -c 'exec sleep 1000' & echo BELLWIRE_PROGRESS=1; wait");
    let begun = begin(&program, command, LONG).at(1.0).await;
    let killed = tokio::task::spawn_blocking(move || orphans::kill_orphans(id)).await.unwrap();
    assert_eq!(killed.unwrap(), 2, "the leader and its child");
    let completion = begun.end().await.into_completion();
    assert_eq!((code(&completion), completion.outcome.exit_code), (Some("signal"), Some(137)));
    let none = tokio::task::spawn_blocking(move || orphans::kill_orphans(id)).await.unwrap();
    assert_eq!(none.unwrap(), 0);
}
