//! Promise: what a run has found out about its network is where the next one begins.

use super::*;
use crate::path::StreamMode;

/// Where the plain stream and the one with comments failed for the same reason, the file said `plain` for ever, and a fleet that
/// rebooted tried both again.
#[tokio::test(start_paused = true)]
async fn where_no_stream_passes_a_restart_tries_none_before_the_suspension_ends() {
    type Case = (&'static str, fn(&SeenRequest) -> Response);
    let cases: [Case; 2] = [
        ("a buffer", |_| answer(200, STREAM, stays(String::new()))),
        ("a refusal", |_| answer(403, PAGE, ends(["no streams".to_owned()]))),
    ];
    for (what, case) in cases {
        let dir = tempfile::tempdir().unwrap();
        let hub = StubHub::new(move |asked| match asked.kind {
            "stream" => case(asked),
            _ => device(),
        });
        run_for(120 * SECOND, agent(&hub, &dir)).await;
        assert_eq!(hub.asked("stream").len(), 2, "{what}: as it is, and with comments");
        let finding = StoredFinding::read(&dir.path().join("state")).map(|finding| finding.hint);
        let (mode, why) = finding.map(|hint| (hint.mode, hint.why)).unzip();
        assert_eq!(mode, Some(StreamMode::Suspended), "{what}: {why:?}");
        run_for(120 * SECOND, agent(&hub, &dir)).await;
        assert_eq!(hub.asked("stream").len(), 2, "{what}: tried again after a restart");
        run_for(400 * SECOND, agent(&hub, &dir)).await;
        assert_eq!(hub.asked("stream").len(), 4, "{what}: not tried again after the suspension");
    }
}
