use axum::body::Body;
use bellwire_core::{Send, Target};
use bellwire_proto::limits::PAGE_ITEMS;
use bellwire_proto::{DeviceId, Json, Labels, NewToken};
use futures_util::future::join_all;
use http_body_util::BodyExt;
use tower::ServiceExt;

use super::*;
use crate::driver::tests::started;
use crate::store::Visible;

async fn token(driver: &Driver, body: &str) -> (bellwire_proto::TokenId, String) {
    let new = NewToken::parse(body.as_bytes()).unwrap();
    let made = serde_json::to_value(driver.make_token(new, None).await.unwrap()).unwrap();
    (made["id"].as_str().unwrap().parse().unwrap(), made["token"].as_str().unwrap().to_owned())
}

/// It went on to the last delivery for as long as its client took to read.
#[tokio::test]
async fn an_export_is_cut_off_at_the_next_page_once_its_token_is_revoked() {
    let (driver, _dir) = started();
    token(&driver, r#"{"role":"admin"}"#).await;
    let devices: Vec<DeviceId> =
        (0..=PAGE_ITEMS.max).map(|n| format!("d{n:04}").parse().unwrap()).collect();
    let registered = devices.iter().map(|d| driver.put_device(d.clone(), Labels::new()));
    assert!(join_all(registered).await.into_iter().all(|put| put.is_ok()));
    let mut send = Send::new("d0000".parse().unwrap(), "ping".parse().unwrap(), Json::null());
    send.target = Target::Devices(devices.clone());
    let command = driver.send_to_many(send, Visible::all()).await.unwrap();
    let made = async || {
        let shown = driver.command(command.id, Visible::all()).await.unwrap();
        shown.counts.values().sum::<u64>() == devices.len() as u64
    };
    while !made().await {
        tokio::task::yield_now().await;
    }

    for revokes in [false, true] {
        let (id, secret) = token(&driver, r#"{"role":"operator"}"#).await;
        let request = http::Request::get(format!("/v1/commands/{}/deliveries", command.id))
            .header(header::ACCEPT, "application/jsonl")
            .header(header::AUTHORIZATION, format!("Bearer {secret}"))
            .body(Body::empty())
            .unwrap();
        let answer = crate::http::router(driver.clone()).oneshot(request).await.unwrap();
        assert_eq!(answer.status(), 200);
        let mut body = answer.into_body();
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        let lines = first.iter().filter(|byte| **byte == b'\n').count();
        assert_eq!(lines as u64, PAGE_ITEMS.max, "the first page");
        if revokes {
            driver.revoke_token(id).await.unwrap();
        }
        let further = body.frame().await.unwrap();
        assert_eq!(further.is_err(), revokes, "{further:?}");
        assert!(body.frame().await.is_none());
    }
}
