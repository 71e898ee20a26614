//! The typed calls against a server of raw bytes: requests are as in the contract, responses are parsed, errors are
//! distinguished.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is the failure message")]

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use bellwire_client::api::{
    CommandQuery, DeliveryQuery, DeviceQuery, Error, NewCommand, PollOptions, Target,
};
use bellwire_client::{Controller, SendOptions};
use bellwire_proto::{Code, DeliveryState, Json, Report, ReportState, Seconds, Seq};
use futures_util::StreamExt as _;
use support::hub::{
    ID, JSON, command, command_event, delivery, device, exchange, hello, hub, id, kiosk, problem,
    reboot,
};
use support::{Server, within};

#[tokio::test]
async fn send_is_one_post_whose_body_is_the_data() {
    let server = Server::start().await;
    let hub = hub(&server);
    let path = "POST /v1/send/kiosk:7@lyon~2/reboot";
    let json = Some("application/json");
    for (options, line, body, content_type) in [
        (SendOptions::default(), path.to_owned(), "", None),
        (
            SendOptions::default()
                .json(Json::parse(r#"{"z": 1.50}"#).unwrap())
                .ttl(Seconds::new(0))
                .wait(Seconds::new(30))
                .run_timeout(Seconds::new(60)),
            format!("{path}?ttl=0s&wait=30s&run_timeout=60s"),
            r#"{"z": 1.50}"#,
            json,
        ),
        (
            SendOptions::default().text("now"),
            path.to_owned(),
            "now",
            Some("text/plain; charset=utf-8"),
        ),
        // The device would receive null for an empty body.
        (SendOptions::default().text(""), path.to_owned(), r#""""#, json),
    ] {
        let (device, action) = (kiosk(), reboot());
        let call = hub.send(&device, &action, &options);
        let (made, sent_line, sent, sent_type) =
            exchange(&server, call, JSON, &delivery("succeeded")).await;
        assert_eq!((sent_line, sent.as_str()), (line, body));
        assert_eq!(sent_type.as_deref(), content_type);
        let made = made.unwrap();
        assert_eq!((made.state, made.seq), (DeliveryState::Succeeded, Seq::new(1042)));
        assert_eq!(made.outcome.result.unwrap().as_str(), r#"{"b":1.50,"a":null}"#);
    }
}

#[tokio::test]
async fn a_key_and_a_token_are_headers_and_the_token_is_never_shown() {
    let server = Server::start().await;
    let hub =
        Controller::builder(server.url("/mounted/here/")).token("bw_1_secret").build().unwrap();
    assert!(!format!("{hub:?}").contains("secret"));
    let options = SendOptions::default().idempotency_key("once");
    let (device, action) = (kiosk(), reboot());
    let (made, request) = tokio::join!(hub.send(&device, &action, &options), async {
        let request = server.request().await;
        assert_eq!(request.target, "/mounted/here/v1/send/kiosk:7@lyon~2/reboot");
        assert_eq!(request.header("idempotency-key"), Some("once"));
        assert_eq!(request.header("authorization"), Some("Bearer bw_1_secret"));
        request.answer(JSON, &delivery("queued")).await;
    });
    assert_eq!(made.unwrap().state, DeliveryState::Queued);
    let () = request;

    let bad = SendOptions::default().idempotency_key("a\nb");
    let error = hub.send(&device, &action, &bad).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::BadRequest));
}

#[tokio::test]
async fn every_other_call_is_as_in_the_contract() {
    let server = Server::start().await;
    let hub = hub(&server);
    let name = kiosk();
    let base = format!("/v1/devices/{name}");

    let target = Target::Devices(vec![name.clone(), "b".parse().unwrap()]);
    let new = NewCommand::new(reboot(), target).data(Json::null()).run_timeout(Seconds::new(9));
    let accepted = "202 Accepted\ncontent-type: application/json";
    let (made, line, sent, _) =
        exchange(&server, hub.send_command(&new), accepted, &command(ID, false)).await;
    assert_eq!(made.unwrap().total, 2);
    assert_eq!(line, "POST /v1/commands");
    let expected = format!(
        r#"{{"action":"reboot","data":null,"target":{{"devices":["{name}","b"]}},"run_timeout_s":9}}"#
    );
    assert_eq!(sent, expected);

    let (made, line, ..) = exchange(&server, hub.command(id()), JSON, &command(ID, true)).await;
    assert_eq!((made.unwrap().done, line), (true, format!("GET /v1/commands/{ID}")));

    let (made, line, ..) =
        exchange(&server, hub.cancel(id(), true), JSON, &command(ID, true)).await;
    assert!(made.is_ok());
    assert_eq!(line, format!("DELETE /v1/commands/{ID}?force=true"));

    let (made, line, ..) = exchange(&server, hub.device(&name), JSON, &device("a")).await;
    assert_eq!((made.unwrap().facts.as_str(), line), (r#"{"os":"deb12"}"#, format!("GET {base}")));

    let labels = BTreeMap::from([("site".to_owned(), "lyon".to_owned())]);
    let created = "201 Created\ncontent-type: application/json";
    let (made, line, sent, _) =
        exchange(&server, hub.put_labels(&name, &labels), created, &device("a")).await;
    assert!(made.is_ok());
    assert_eq!((line, sent), (format!("PUT {base}"), r#"{"labels":{"site":"lyon"}}"#.to_owned()));

    let facts = Json::parse(r#"{"ram_mb":512}"#).unwrap();
    let (made, line, sent, _) =
        exchange(&server, hub.put_facts(&name, &facts), JSON, &device("a")).await;
    assert!(made.is_ok());
    assert_eq!((line, sent), (format!("PUT {base}/facts"), facts.as_str().to_owned()));

    let (made, line, ..) = exchange(&server, hub.delete_device(&name), "204 No Content", "").await;
    assert!(made.is_ok());
    assert_eq!(line, format!("DELETE {base}"));

    let (made, line, sent, _) =
        exchange(&server, hub.confirm(&name, "s1"), "204 No Content", "").await;
    assert!(made.is_ok());
    assert_eq!((line, sent), (format!("POST {base}/confirm"), r#"{"session":"s1"}"#.to_owned()));

    let mut report = Report::of(ReportState::Succeeded);
    report.rev = Some(4);
    report.outcome.result = Some(Json::parse("[1.0]").unwrap());
    let (made, line, sent, _) =
        exchange(&server, hub.report(&name, id(), &report), JSON, &delivery("succeeded")).await;
    assert_eq!(made.unwrap().state, DeliveryState::Succeeded);
    assert_eq!(line, format!("POST {base}/commands/{ID}/status"));
    assert_eq!(sent, r#"{"state":"succeeded","rev":4,"result":[1.0]}"#);

    let (made, line, ..) = exchange(&server, hub.health(), JSON, r#"{"status":"ok"}"#).await;
    assert_eq!((made.is_ok(), line.as_str()), (true, "GET /healthz"));
    let (made, line, ..) = exchange(&server, hub.ready(), JSON, "{}").await;
    assert_eq!((made.unwrap(), line.as_str()), (true, "GET /readyz"));
    let unavailable = "503 Unavailable\ncontent-type: application/problem+json";
    let (made, ..) = exchange(&server, hub.ready(), unavailable, &problem("draining")).await;
    assert!(!made.unwrap());
    let (made, ..) = exchange(&server, hub.ready(), "404 Not Found", "").await;
    assert!(matches!(made, Err(Error::Foreign { .. })), "{made:?}");
}

#[tokio::test]
async fn a_batch_is_answered_item_by_item() {
    let server = Server::start().await;
    let hub = hub(&server);
    let name = kiosk();
    let mut running = Report::of(ReportState::Running);
    running.outcome.result = Some(Json::parse("1.50").unwrap());
    let reports = [(id(), running), (id(), Report::of(ReportState::Nack))];
    let body = format!(
        r#"[{{"command":"{ID}","status":200,"delivery":{}}},
            {{"command":"{ID}","status":404,"problem":{}}}]"#,
        delivery("running"),
        problem("unknown_command")
    );
    let call = hub.report_batch(&name, &reports);
    let (made, line, sent, _) = exchange(&server, call, JSON, &body).await;
    assert_eq!(line, format!("POST /v1/devices/{name}/status"));
    let expected = format!(
        r#"[{{"command":"{ID}","state":"running","result":1.50}},{{"command":"{ID}","state":"nack"}}]"#
    );
    assert_eq!(sent, expected);
    let made = made.unwrap();
    assert_eq!(made[0].outcome.as_ref().unwrap().state, DeliveryState::Running);
    assert_eq!(made[1].outcome.as_ref().unwrap_err().code, Code::UnknownCommand);

    let call = hub.report_batch(&name, &reports);
    let (made, ..) = exchange(&server, call, JSON, "[]").await;
    assert!(matches!(made, Err(Error::Foreign { .. })), "one answer to each report, or none");
}

#[tokio::test]
async fn a_change_of_labels_rests_on_the_tag_that_was_read_and_one_that_no_longer_fits_is_no_error()
{
    let server = Server::start().await;
    let (hub, device_id) = (hub(&server), kiosk());
    let tagged = "200 OK\ncontent-type: application/json\netag: \"one\"";
    let read = exchange(&server, hub.device_and_tag(&kiosk()), tagged, &device("a")).await.0;
    let (_, tag) = read.unwrap();
    let patch = BTreeMap::from([("site".to_owned(), None)]);
    let serve = |head: &'static str, body: String| {
        let server = &server;
        async move {
            let request = server.request().await;
            let sent = format!("{} {:?}", request.method, request.header("if-match"));
            request.answer(head, &body).await;
            sent
        }
    };
    let both = within("a merge", async {
        tokio::join!(hub.merge_labels_if(&device_id, &patch, &tag), serve(tagged, device("a")))
    });
    let (made, sent) = both.await;
    assert_eq!(
        (made.unwrap().unwrap().1, sent.as_str()),
        (tag.clone(), r#"PATCH Some("\"one\"")"#)
    );
    let changed = "412 Precondition Failed\ncontent-type: application/problem+json";
    let problem =
        r#"{"type":"about:blank","title":"t","status":412,"detail":"d","code":"conflict"}"#;
    let labels = BTreeMap::new();
    let both = within("a replacement", async {
        tokio::join!(
            hub.put_labels_if(&device_id, &labels, &tag),
            serve(changed, problem.to_owned())
        )
    });
    let (made, sent) = both.await;
    assert_eq!((made.unwrap(), sent.as_str()), (None, r#"PUT Some("\"one\"")"#));
    // A gateway's own 412 says nothing of the labels.
    let both = within("a gateway", async {
        tokio::join!(hub.put_labels_if(&device_id, &labels, &tag), serve(changed, String::new()))
    });
    assert!(matches!(both.await.0, Err(Error::Foreign { .. })));
}

#[tokio::test]
async fn lists_are_fetched_page_by_page() {
    let server = Server::start().await;
    let hub = hub(&server);
    let query = DeviceQuery {
        select: Some("site=lyon".parse().unwrap()),
        online: Some(true),
        limit: Some(2),
        ..DeviceQuery::default()
    };
    let walk = async {
        let devices: Vec<_> = hub.all_devices(query).collect().await;
        let names = devices.into_iter().map(|d| d.unwrap().id.to_string());
        names.collect::<Vec<_>>()
    };
    let pages = async {
        let first = server.request().await;
        assert_eq!(first.target, "/v1/devices?select=site%3Dlyon&online=true&limit=2");
        let body = format!(r#"{{"items":[{},{}],"next":"c/1"}}"#, device("a"), device("b"));
        first.answer(JSON, &body).await;
        let second = server.request().await;
        assert!(second.target.ends_with("&limit=2&after=c%2F1"), "{}", second.target);
        let body = format!(r#"{{"items":[{}],"next":null}}"#, device("c"));
        second.answer(JSON, &body).await;
    };
    let (names, ()) = within("the walk", async { tokio::join!(walk, pages) }).await;
    assert_eq!(names, ["a", "b", "c"]);

    let query = CommandQuery {
        device: Some(kiosk()),
        state: Some(DeliveryState::TimedOut),
        action: Some(reboot()),
        ..CommandQuery::default()
    };
    let empty = r#"{"items":[],"next":null}"#;
    let walk = hub.all_commands(query).collect::<Vec<_>>();
    let (made, line, ..) = exchange(&server, walk, JSON, empty).await;
    assert!(made.is_empty());
    assert_eq!(line, "GET /v1/commands?device=kiosk%3A7%40lyon%7E2&state=timed_out&action=reboot");

    let query = DeliveryQuery { state: Some(DeliveryState::Failed), ..DeliveryQuery::default() };
    let walk = hub.all_deliveries(id(), query).collect::<Vec<_>>();
    let not_found = "404 Not Found\ncontent-type: application/problem+json";
    let (made, line, ..) = exchange(&server, walk, not_found, &problem("unknown_command")).await;
    assert_eq!(line, format!("GET /v1/commands/{ID}/deliveries?state=failed"));
    assert_eq!(made.len(), 1, "an error is the last item");
    assert_eq!(made[0].as_ref().unwrap_err().code(), Some(Code::UnknownCommand));
}

#[tokio::test]
async fn errors_are_distinguished() {
    let server = Server::start().await;
    let hub = hub(&server);
    let full = "429 Too Many\ncontent-type: application/problem+json\nretry-after: 3";
    let (made, ..) = exchange(&server, hub.command(id()), full, &problem("queue_full")).await;
    let error = made.unwrap_err();
    assert_eq!(error.code(), Some(Code::QueueFull));
    assert!(
        matches!(&error, Error::Refused { retry_after: Some(t), .. } if *t == Duration::from_secs(3))
    );

    // A refusal of the HTTP parser has no body.
    let (made, ..) = exchange(&server, hub.command(id()), "431 Too Large", "").await;
    assert_eq!(made.unwrap_err().code(), Some(Code::HeadersTooLarge));

    let html = "200 OK\ncontent-type: text/html";
    for (head, body) in [
        (html, "<html>Sign in to the hotel</html>"),
        ("302 Found\nlocation: http://portal/", ""),
        ("502 Bad Gateway", "<html>upstream</html>"),
        ("404 Not Found", ""),
        // A proxy that answers without a body, or with codes of its own, lost a command.
        ("400 Bad Request", ""),
        ("502 Bad Gateway", r#"{"code":"not_found"}"#),
        (JSON, r#"{"id":1}"#),
    ] {
        let (made, ..) = exchange(&server, hub.command(id()), head, body).await;
        let error = made.unwrap_err();
        assert!(matches!(error, Error::Foreign { .. }), "{head}: {error}");
        assert!(error.to_string().contains(&server.url("")), "it names the URL: {error}");
    }

    // So that a program can say more of a server that it knows.
    let (made, ..) = exchange(&server, hub.ping(), "302 Found\nlocation: /", "").await;
    let error = made.unwrap_err();
    let location = match &error {
        Error::Foreign { location, .. } => location.as_deref(),
        _ => None,
    };
    assert_eq!(location, Some("/"), "{error}");

    let url = server.url("");
    drop(server);
    let error = hub.health().await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains(&url), "it names the URL: {error}");
}

#[tokio::test]
async fn a_hub_that_does_not_answer_is_unreachable_after_the_timeout() {
    let server = Server::start().await;
    let hub = Controller::builder(server.url(""))
        .answer_timeout(Duration::from_millis(50))
        .build()
        .unwrap();
    let error = within("the call to give up", hub.health()).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn a_poll_rejects_a_response_for_another_device_or_request() {
    let server = Server::start().await;
    let hub = hub(&server);
    let name = kiosk();
    let options = PollOptions { wait: Some(Seconds::new(5)), last_event_id: Some(Seq::new(3)) };
    for (device, echoes, good) in [
        (name.to_string(), true, true),
        (name.to_string(), false, false),
        ("b".into(), true, false),
    ] {
        let side = async {
            let request = server.request().await;
            let (path, query) = request.path_and_query();
            assert_eq!(path, format!("/v1/devices/{name}/commands"));
            let nonce = query
                .strip_prefix("wait=5s&nonce=")
                .and_then(|rest| rest.strip_suffix("&last_event_id=3"))
                .unwrap_or_else(|| panic!("{query}"));
            let nonce = if echoes { nonce } else { "of another" };
            let hello = hello(&device, nonce);
            let body = format!(
                r#"{{"hello":{hello},"commands":[{}],"cancels":[{{"id":"{ID}","seq":9}}]}}"#,
                command_event()
            );
            request.answer(JSON, &body).await;
        };
        let (made, ()) = tokio::join!(hub.poll(&name, options), side);
        match made {
            Ok(answer) => {
                assert!(good, "{device} {echoes}");
                assert_eq!(answer.commands[0].data.as_str(), r#"{"n":1.0}"#);
                assert_eq!(answer.cancels[0].seq, Seq::new(9));
            }
            Err(error) => {
                assert!(!good && matches!(error, Error::Foreign { .. }), "{error}");
            }
        }
    }
}
