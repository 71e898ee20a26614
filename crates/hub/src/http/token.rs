//! Tokens and enrolment. Contract, section 6, "Tokens".

use std::borrow::Cow;

use axum::response::Response;
use bellwire_core::Enrolment;
use bellwire_core::record::TokenRecord;
use bellwire_proto::limits::SMALL_BODY_BYTES_MAX;
use bellwire_proto::{
    Code, DeviceId, Enroll, Enrolled, NewToken, Page, Problem, SecretText, TokenId,
};
use http::{StatusCode, header};

use super::request::Request;
use super::{page, problem};
use crate::auth::secret_digest;
use crate::store::Cursor;

/// `GET /v1/tokens`: by id, without their secrets.
pub(super) async fn list(request: Request) -> Result<Response, Problem> {
    let mut query = request.query()?;
    let page = super::page_request(&mut query)?;
    query.finish()?;
    request.driver.settle_uses().await;
    let tokens = request.driver.store().tokens(page).await?;
    let items = tokens.items.iter().map(TokenRecord::to_token).collect();
    page::page(Page { items, next: tokens.next }, |last| {
        Cursor::after_token(last.id.unwrap_or(TokenId::from_random([0; 10])))
    })
}

/// `POST /v1/tokens`: the answer is the one place that shows the secret.
pub(super) async fn create(mut request: Request) -> Result<Response, Problem> {
    request.no_query()?;
    let body = request.body(SMALL_BODY_BYTES_MAX).await?;
    let new = NewToken::parse(&body)?;

    let by = request.caller.name().map(Cow::into_owned);
    let created = request.driver.make_token(new, by).await?;
    let location = request.location(&format!("/v1/tokens/{}", created.token.0.id()));
    Ok(problem::with(problem::json(StatusCode::CREATED, &created), header::LOCATION, &location))
}

/// `GET /v1/tokens/self`: the caller's own.
pub(super) async fn own(request: Request) -> Result<Response, Problem> {
    request.no_query()?;
    request.driver.settle_uses().await;
    Ok(problem::json(StatusCode::OK, &request.caller.token(&request.driver).await?))
}

/// `DELETE /v1/tokens/{token}`: its streams end.
pub(super) async fn revoke(request: Request) -> Result<Response, Problem> {
    let token = request.segment("token")?;
    let token: TokenId = token.parse().map_err(|e| Problem::bad_request(format!("{e}")))?;
    request.no_query()?;
    request.driver.revoke_token(token).await?;
    Ok(problem::empty())
}

/// `POST /v1/enroll`: a device gets its name and its token.
pub(super) async fn enroll(mut request: Request) -> Result<Response, Problem> {
    request.no_query()?;
    let body = request.body(SMALL_BODY_BYTES_MAX).await?;
    let Enroll { device, facts } = Enroll::parse(&body)?;

    let Some(join) = request.caller.id() else { return Err(super::caller::unauthenticated()) };
    let credential = request.driver.new_credential()?;
    let device = match device {
        Some(device) => device,
        // As unlikely to be taken as any other 80 bits.
        None => made_name(&request.driver.new_credential()?.id())?,
    };
    let enrolment = Enrolment {
        join,
        device: device.clone(),
        facts,
        token: credential.id(),
        digest: secret_digest(&credential),
    };
    let pending = request.driver.enroll(enrolment).await?;
    let status = if pending { StatusCode::ACCEPTED } else { StatusCode::CREATED };
    Ok(problem::json(status, &Enrolled { device, token: SecretText(credential), pending }))
}

/// `POST /v1/devices/{device}/approve`.
pub(super) async fn approve(request: Request) -> Result<Response, Problem> {
    let device: DeviceId = request.name("device")?;
    request.no_query()?;
    request.driver.approve(device.clone()).await?;
    let shown = request.driver.device(device).await?.ok_or_else(super::device::unknown)?;
    Ok(super::device::answer(StatusCode::OK, &shown))
}

fn made_name(id: &TokenId) -> Result<DeviceId, Problem> {
    let name = format!("device-{id}");
    name.parse().map_err(|_| Problem::new(Code::Internal, "the hub could not make a name"))
}
