//! Health, readiness, and the events of the hub. Contract, sections 4, 6 and 9.

use axum::response::Response;
use bellwire_proto::{Code, Problem};
use http::StatusCode;
use serde::Serialize;

use super::request::Request;
use super::{problem, stream};
use crate::driver::Readiness;
use crate::jwt::KeysState;

/// `GET /v1/events`: what happens to all devices and deliveries.
pub(super) async fn events(request: Request) -> Result<Response, Problem> {
    request.no_query()?;
    if request.is_head() {
        return Ok(stream::head_only());
    }
    let options = stream::options(request.driver.config().heartbeat);
    let (visible, token) = (request.caller.visible(), request.caller.token_use());
    let reserved = request.driver.observe(options, visible, token)?;
    request.caller.stays(&request.driver).await?;
    Ok(stream::answer(&request.driver, &request.head, reserved).await)
}

/// `GET /healthz`: the process can work, also while it drains or when its store has failed. Once it
/// cannot, 500, so that a supervisor restarts it.
pub(super) async fn healthz(request: Request) -> Result<Response, Problem> {
    request.no_query()?;
    match request.driver.readiness() {
        Readiness::Ready | Readiness::Draining | Readiness::StoreFailed => Ok(status("ok")),
        Readiness::Failed => Err(Problem::new(Code::Internal, FAILED)),
    }
}

/// `GET /readyz`: the hub can take work.
pub(super) async fn readyz(request: Request) -> Result<Response, Problem> {
    request.no_query()?;
    match request.driver.readiness() {
        Readiness::Ready => {
            let keys = request.driver.jwt().map(|jwt| jwt.keys().state);
            let jwt_keys = match keys {
                None | Some(KeysState::Ready) => return Ok(status("ready")),
                Some(KeysState::Stale) => "stale",
                Some(KeysState::Missing) => "missing",
            };
            // The hub can work; callers with its own tokens and certificates are served.
            Ok(problem::json(StatusCode::OK, &Ready { status: "ready", jwt_keys }))
        }
        Readiness::Draining => Err(Problem::draining()),
        Readiness::StoreFailed => Err(Problem::new(
            Code::StoreUnavailable,
            "the store failed: see the hub's log, repair the data folder or its disk, and start the hub again",
        )),
        // 503 as for every hub that is not ready (contract, section 9), and `store_unavailable` since it
        // stores nothing more. The detail keeps an operator from searching the disk for the fault.
        Readiness::Failed => Err(Problem::new(Code::StoreUnavailable, FAILED)),
    }
}

/// Of a hub that has trouble with the keys of JWTs.
#[derive(Serialize)]
struct Ready {
    status: &'static str,
    jwt_keys: &'static str,
}

/// What an operator reads of a hub in which something panicked.
const FAILED: &str =
    "the hub failed, not its disk, and stores nothing more: restart it, and see its log";

fn status(status: &'static str) -> Response {
    #[derive(Serialize)]
    struct Status {
        status: &'static str,
    }
    problem::json(StatusCode::OK, &Status { status })
}
