//! Promise: what a run has found out about its network is where the next one begins.

use super::*;
use crate::path::Rung;

/// Where the plain stream and the one with comments failed for the same reason, the file said `plain` for ever, and a fleet that
/// rebooted tried both again.
#[tokio::test(start_paused = true)]
async fn where_no_stream_passes_a_restart_tries_none_before_its_rest_is_over() {
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
        let known = Known::read(&dir.path().join("state")).map(|known| known.verdict);
        let (rung, why) = known.map(|verdict| (verdict.rung, verdict.why)).unzip();
        assert_eq!(rung, Some(Rung::Rest), "{what}: {why:?}");
        run_for(120 * SECOND, agent(&hub, &dir)).await;
        assert_eq!(hub.asked("stream").len(), 2, "{what}: tried again after a restart");
        run_for(400 * SECOND, agent(&hub, &dir)).await;
        assert_eq!(hub.asked("stream").len(), 4, "{what}: not tried again after its rest");
    }
}
