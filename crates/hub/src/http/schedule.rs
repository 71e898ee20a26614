//! Schedules: `/v1/schedules`. Contract, section 3.
//!
//! What an expression and a zone mean is in `calendar.rs`; when something is run, the core decides.

use axum::response::Response;
use bellwire_core::ScheduleOp;
use bellwire_core::record::ScheduleRecord;
use bellwire_proto::limits::{SCHEDULE_BYTES_MAX, SCHEDULE_UPCOMING};
use bellwire_proto::merge_patch::merge;
use bellwire_proto::{
    Code, Members, Page, Problem, Role, Schedule, ScheduleId, SchedulePlan, Seconds, TokenId,
};
use http::{StatusCode, header};

use super::caller::Caller;
use super::request::Request;
use super::{page, problem, window};
use crate::calendar::Calendar;
use crate::driver::Driver;
use crate::internal;
use crate::store::Cursor;

/// The members that a patch may have.
const MEMBERS: [&str; 13] = [
    "name",
    "cron",
    "timezone",
    "action",
    "data",
    "target",
    "ttl_s",
    "run_timeout_s",
    "rollout",
    "window",
    "overlap",
    "missed",
    "paused",
];

/// `GET /v1/schedules`: by id.
pub(super) async fn list(request: Request) -> Result<Response, Problem> {
    let mut query = request.query()?;
    let page = super::page_request(&mut query)?;
    query.finish()?;
    let store = request.driver.store();
    let found = match VisibleSchedules::of(&request.caller) {
        VisibleSchedules::All => store.schedules(None, page).await?,
        VisibleSchedules::Own(token) => store.schedules(Some(token), page).await?,
        VisibleSchedules::Nothing => Page { items: Vec::new(), next: None },
    };
    let items = found.items.into_iter().map(shown).collect();
    page::page(Page { items, next: found.next }, |last: &Schedule| Cursor::after_schedule(last.id))
}

/// `POST /v1/schedules`.
pub(super) async fn create(mut request: Request) -> Result<Response, Problem> {
    let created_by = owner(&request.driver, &request.caller)?;
    request.no_query()?;
    let body = request.body(SCHEDULE_BYTES_MAX).await?;
    let (plan, paused) = SchedulePlan::parse(&body, request.driver.config().data_bytes_max)?;
    check(&request.driver, &request.caller, &plan).await?;

    let id = request.driver.make_schedule(plan, paused, created_by).await?;
    let made = request.driver.store().schedule(id).await?.ok_or_else(unknown)?;
    let location = request.location(&format!("/v1/schedules/{id}"));
    let answer = problem::json(StatusCode::CREATED, &shown(made));
    Ok(problem::with(answer, header::LOCATION, &location))
}

/// `GET /v1/schedules/{schedule}`.
pub(super) async fn show(request: Request) -> Result<Response, Problem> {
    let given = request.segment("schedule")?;
    request.no_query()?;
    let found = find(&request.driver, &request.caller, given).await?;
    Ok(problem::json(StatusCode::OK, &shown(found)))
}

/// `PATCH /v1/schedules/{schedule}`: a JSON merge patch of what was posted.
pub(super) async fn change(mut request: Request) -> Result<Response, Problem> {
    let given = request.segment("schedule")?;
    request.no_query()?;
    let body = request.body(SCHEDULE_BYTES_MAX).await?;
    let patch = patch(&body)?;
    let old = find(&request.driver, &request.caller, given).await?;

    let (id, version) = (old.id, old.version);
    let (plan, paused) = patched(old, patch, request.driver.config().data_bytes_max)?;
    check(&request.driver, &request.caller, &plan).await?;
    let op = ScheduleOp::Change { id, plan: Box::new(plan), paused, version };
    done(&request.driver, id, op).await
}

/// `DELETE /v1/schedules/{schedule}`.
pub(super) async fn delete(request: Request) -> Result<Response, Problem> {
    let given = request.segment("schedule")?;
    request.no_query()?;
    let id = find(&request.driver, &request.caller, given).await?.id;
    request.driver.change_schedule(ScheduleOp::Delete(id)).await?;
    Ok(problem::empty())
}

/// `POST /v1/schedules/{schedule}/pause`.
pub(super) async fn pause(request: Request) -> Result<Response, Problem> {
    set_paused(request, true).await
}

/// `POST /v1/schedules/{schedule}/resume`.
pub(super) async fn resume(request: Request) -> Result<Response, Problem> {
    set_paused(request, false).await
}

async fn set_paused(request: Request, paused: bool) -> Result<Response, Problem> {
    let given = request.segment("schedule")?;
    request.no_query()?;
    let id = find(&request.driver, &request.caller, given).await?.id;
    done(&request.driver, id, ScheduleOp::Pause { id, paused }).await
}

/// Does it, and shows what became of the schedule.
async fn done(driver: &Driver, id: ScheduleId, op: ScheduleOp) -> Result<Response, Problem> {
    driver.change_schedule(op).await?;
    let found = driver.store().schedule(id).await?.ok_or_else(unknown)?;
    Ok(problem::json(StatusCode::OK, &shown(found)))
}

/// The schedule of this id or name, if it is there for the caller.
async fn find(driver: &Driver, caller: &Caller, given: String) -> Result<ScheduleRecord, Problem> {
    if given.is_empty() {
        return Err(Problem::bad_request("a schedule is named by its id or its name"));
    }
    let found = read(driver, given).await?;
    let seen = VisibleSchedules::of(caller);
    found.filter(|found| seen.has(found)).ok_or_else(unknown)
}

async fn read(driver: &Driver, given: String) -> Result<Option<ScheduleRecord>, Problem> {
    Ok(match given.parse() {
        Ok(id) => driver.store().schedule(id).await?,
        Err(_) => driver.store().schedule_named(given).await?,
    })
}

/// Which schedules are there for a caller.
enum VisibleSchedules {
    All,
    /// Those that this token made.
    Own(TokenId),
    Nothing,
}

impl VisibleSchedules {
    /// An operator within a scope has its own; a caller whose token cannot have made one has none.
    fn of(caller: &Caller) -> Self {
        match caller.role() {
            Role::Operator(scope) if scope.select.is_some() || scope.actions.is_some() => {
                caller.id().map_or(Self::Nothing, Self::Own)
            }
            _ => Self::All,
        }
    }

    fn has(&self, schedule: &ScheduleRecord) -> bool {
        match self {
            Self::All => true,
            Self::Own(token) => schedule.created_by == Some(*token),
            Self::Nothing => false,
        }
    }
}

/// The token that a new schedule acts as: it is looked up at each run. On an open hub there need be none.
///
/// # Errors
/// `forbidden` for a caller whose rights are in no row of a token: the holder of a JWT or of a client's certificate, on an open hub
/// too, or its runs would be without its scope; and a caller without a credential that a closed hub lets in by an open listener.
fn owner(driver: &Driver, caller: &Caller) -> Result<Option<TokenId>, Problem> {
    let acts_as = match caller {
        Caller::Holder(found) if found.grant.key().is_none() => Some(Some(found.grant.id)),
        Caller::Anonymous | Caller::OfOpenListener if driver.is_open() => Some(None),
        _ => None,
    };
    acts_as.ok_or_else(|| {
        let detail = "a schedule acts, at each run, as the token of this hub that makes it, and a JWT, a client certificate or no \
                      credential at all is none; make it with a token (bellwire token create --role operator)";
        Problem::new(Code::Forbidden, detail)
    })
}

/// Checks what the plan says beyond its form: its times, and that the caller may do itself what it asks for.
async fn check(driver: &Driver, caller: &Caller, plan: &SchedulePlan) -> Result<(), Problem> {
    caller.may_send(&plan.action)?;
    let calendar = Calendar::parse(&plan.cron, &plan.timezone)?;
    let Some(next) = calendar.next(driver.now()) else {
        let detail = "member \"cron\" is a time that never comes";
        return Err(Problem::bad_request(detail));
    };
    if let Some(window) = &plan.window {
        let (is_rollout, ttl) = (plan.rollout.is_some(), plan.ttl_s.map(Seconds::new));
        window::check(window, is_rollout, Some(next), ttl, driver.now())?;
    }
    caller.sees(driver, plan.target.devices()).await
}

/// The body of a patch, whose members are all known.
fn patch(body: &[u8]) -> Result<&str, Problem> {
    let mut members = Members::parse(body)?;
    for name in MEMBERS {
        members.take_raw(name);
    }
    members.finish()?;
    std::str::from_utf8(body).map_err(|_| Problem::bad_request("the body is not UTF-8"))
}

fn patched(
    old: ScheduleRecord,
    patch: &str,
    data_bytes_max: usize,
) -> Result<(SchedulePlan, bool), Problem> {
    let plan = serde_json::to_string(&old.plan).map_err(internal::failed)?;
    let paused = format!("{{\"paused\":{}}}", old.paused);
    let merged = merge(&merge(&plan, &paused)?, patch)?;
    SchedulePlan::parse(merged.as_bytes(), data_bytes_max)
}

/// The object that the API shows of a schedule.
fn shown(record: ScheduleRecord) -> Schedule {
    let ScheduleRecord { id, plan, paused, reason, created_at, created_by, .. } = record;
    let upcoming = match Calendar::parse(&plan.cron, &plan.timezone) {
        Ok(calendar) if !paused => {
            let next = |after: &bellwire_proto::Timestamp| calendar.next(*after);
            let times = std::iter::successors(Some(record.decided_at), next);
            times.skip(1).take(SCHEDULE_UPCOMING).collect()
        }
        _ => Vec::new(),
    };
    Schedule {
        id,
        name: plan.name,
        cron: plan.cron,
        timezone: plan.timezone,
        action: plan.action,
        data: plan.data,
        target: plan.target,
        ttl_s: plan.ttl_s,
        run_timeout_s: plan.run_timeout_s,
        rollout: plan.rollout,
        window: plan.window,
        overlap: plan.overlap,
        missed: plan.missed,
        paused,
        reason,
        created_at,
        created_by: created_by.map(|token| token.to_string()),
        next_at: upcoming.first().copied(),
        upcoming,
        last_at: record.last.map(|(at, _)| at),
        last_command: record.last.map(|(_, command)| command),
        skipped: record.skipped,
    }
}

fn unknown() -> Problem {
    let detail = "no schedule has this id or name; see them with bellwire schedule list";
    Problem::new(Code::NotFound, detail)
}
