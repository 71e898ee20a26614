//! Commands as their senders read them, and cancelling. Contract, sections 3 and 7.

use axum::response::Response;
use bellwire_core::RolloutOp;
use bellwire_proto::limits::PAGE_ITEMS;
use bellwire_proto::{Code, Command, CommandId, CommandIdPrefix, Page, Problem, Role};
use http::StatusCode;

use super::caller::Caller;
use super::export::{self, Export, ExportQuery};
use super::params::Query;
use super::request::Request;
use super::{page, problem, stream};
use crate::driver::Driver;
use crate::store::{CommandFilter, Cursor, Visible};

/// `GET /v1/commands`: newest first; with `id`, those whose ids begin so.
pub(super) async fn list(request: Request) -> Result<Response, Problem> {
    let mut query = request.query()?;
    if let Some(prefix) = query.value("id")? {
        return by_id(&request.driver, request.caller.visible(), prefix, query).await;
    }
    let filter = CommandFilter {
        device: query.value("device")?,
        state: query.value("state")?,
        action: query.value("action")?,
        visible: request.caller.visible(),
    };
    let page = super::page_request(&mut query)?;
    query.finish()?;

    let commands = request.driver.store().commands(filter, page).await?;
    page::page(commands, |last| Cursor::after_seq(last.seq))
}

/// One page, which is all: it is for finding one command.
async fn by_id(
    driver: &Driver,
    visible: Visible,
    prefix: CommandIdPrefix,
    mut query: Query,
) -> Result<Response, Problem> {
    let limit = query.number("limit", PAGE_ITEMS)?.unwrap_or(PAGE_ITEMS.default);
    if ["device", "state", "action", "after"].into_iter().any(|name| query.text(name).is_some()) {
        return Err(Problem::bad_request("parameter id goes with limit alone"));
    }
    query.finish()?;

    let limit = u32::try_from(limit).unwrap_or(u32::MAX);
    let items = driver.store().commands_by_id(prefix, limit, visible).await?;
    page::page(Page { items, next: None }, |last| Cursor::after_seq(last.seq))
}

/// `GET /v1/commands/{command}`.
pub(super) async fn show(request: Request) -> Result<Response, Problem> {
    let command: CommandId = request.name("command")?;
    request.no_query()?;
    let command = visible(&request.driver, &request.caller, command).await?;
    Ok(problem::json(StatusCode::OK, &command))
}

/// `GET /v1/commands/{command}/deliveries`: by device; a page, or all as JSON lines or CSV.
pub(super) async fn deliveries(request: Request) -> Result<Response, Problem> {
    let command: CommandId = request.name("command")?;
    let mut query = request.query()?;
    let state = query.value("state")?;
    if let Some(form) = Export::accepted(&request.head.headers) {
        if query.text("limit").is_some() || query.text("after").is_some() {
            let detail = "JSON lines and CSV have no pages: leave limit and after out";
            return Err(Problem::bad_request(detail));
        }
        query.finish()?;
        let wanted = ExportQuery { command, state, caller: request.caller };
        return export::export(&request.driver, form, wanted).await;
    }
    let page = super::page_request(&mut query)?;
    query.finish()?;

    let store = request.driver.store();
    let deliveries = store.deliveries(command, state, page, request.caller.visible()).await?;
    let deliveries = deliveries.ok_or_else(unknown)?;
    page::page(deliveries, |last| Cursor::after_device(last.device.clone()))
}

/// `GET /v1/commands/{command}/events`: every delivery as it is, each change, `done`, the end.
pub(super) async fn events(request: Request) -> Result<Response, Problem> {
    let command: CommandId = request.name("command")?;
    request.no_query()?;

    if request.is_head() {
        visible(&request.driver, &request.caller, command).await?;
        return Ok(stream::head_only());
    }
    let options = stream::options(request.driver.config().heartbeat);
    let visible = request.caller.visible();
    let reserved =
        request.driver.watch(command, options, visible, request.caller.token_use()).await?;
    request.caller.stays(&request.driver).await?;
    Ok(stream::answer(&request.driver, &request.head, reserved).await)
}

/// `DELETE /v1/commands/{command}`: 202 while a device must still answer, 200 when every delivery is terminal.
pub(super) async fn cancel(request: Request) -> Result<Response, Problem> {
    let command: CommandId = request.name("command")?;
    let mut query = request.query()?;
    let force = query.switch("force")?.unwrap_or(false);
    query.finish()?;

    let visible = request.caller.visible();
    let command = match may_cancel(&request.driver, &request.caller, command).await? {
        Cancels::All => request.driver.cancel(command, force, visible).await?,
        Cancels::Part => request.driver.cancel_visible(command, force, visible).await?,
    };
    let status = if command.done { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok(problem::json(status, &command))
}

/// `POST /v1/commands/{command}/pause`.
pub(super) async fn pause(request: Request) -> Result<Response, Problem> {
    change_rollout(request, RolloutOp::Pause).await
}

/// `POST /v1/commands/{command}/resume`.
pub(super) async fn resume(request: Request) -> Result<Response, Problem> {
    change_rollout(request, RolloutOp::Resume).await
}

/// `POST /v1/commands/{command}/abort`.
pub(super) async fn abort(request: Request) -> Result<Response, Problem> {
    change_rollout(request, RolloutOp::Abort).await
}

async fn change_rollout(request: Request, op: RolloutOp) -> Result<Response, Problem> {
    let command: CommandId = request.name("command")?;
    request.no_query()?;
    // Who may cancel a command may stop it half way.
    visible(&request.driver, &request.caller, command).await?;
    may_cancel(&request.driver, &request.caller, command).await?;
    let command = request.driver.change_rollout(command, op, request.caller.visible()).await?;
    Ok(problem::json(StatusCode::OK, &command))
}

/// The command as it is for the caller.
async fn visible(driver: &Driver, caller: &Caller, command: CommandId) -> Result<Command, Problem> {
    let found = driver.store().command(command, caller.visible()).await?;
    found.ok_or_else(unknown)
}

/// What of a command its canceller cancels.
enum Cancels {
    All,
    /// The deliveries that it sees: the others are not there for it.
    Part,
}

/// Checks that an operator may send the action of a command that it cancels.
async fn may_cancel(
    driver: &Driver,
    caller: &Caller,
    command: CommandId,
) -> Result<Cancels, Problem> {
    let Role::Operator(scope) = caller.role() else { return Ok(Cancels::All) };
    if scope.select.is_none() && scope.actions.is_none() {
        return Ok(Cancels::All);
    }
    let seen = visible(driver, caller, command).await?;
    caller.may_send(&seen.action)?;
    let whole = driver.store().command(command, Visible::all()).await?;
    if whole.is_none_or(|whole| whole.total == seen.total) {
        return Ok(Cancels::All);
    }
    if seen.rollout.is_some() {
        let detail = "this rollout has devices outside of the selector of your token: pause, resume, abort or cancel it with a token that sees them all";
        return Err(Problem::new(Code::Forbidden, detail));
    }
    Ok(Cancels::Part)
}

pub(super) fn unknown() -> Problem {
    Problem::new(Code::UnknownCommand, "no command has this id, or its retention has elapsed")
}
