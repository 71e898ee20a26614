//! The API of the hub: which handler serves which request, and what is checked before.
//!
//! Each path of the contract is in `ROUTES` once, with its methods; any other path is 404, any other
//! method 405 with `Allow`, and `OPTIONS` is answered from the same table. Then the checks follow in
//! the order of the contract (section 1): the page of a browser ([`browsers`]) and credentials here, and
//! in each handler, from top to bottom, names, query, size, media type, body, and the checks of the [`Driver`]. No handler decides
//! anything about deliveries; none knows a socket.
//!
//! The table is matched on the path as it came, before it is decoded: an empty name and one that
//! contains `%2F` are invalid names here (400) and not other routes.

mod audit;
pub mod bodies;
mod body;
pub mod browsers;
mod caller;
pub mod classic;
mod command;
mod device;
#[cfg(test)]
mod equal_cost;
mod export;
mod metrics;
mod ops;
mod page;
pub mod params;
mod ping;
mod problem;
mod report;
mod request;
mod rules;
mod schedule;
mod send;
mod stream;
mod token;
mod waits;
mod window;

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use axum::routing::any;
use bellwire_proto::limits::{PAGE_ITEMS, URI_BYTES_MAX};
use bellwire_proto::{Code, DeviceId, Problem};
use http::request::Parts;
use http::{Method, StatusCode, header};

use crate::driver::{AuditContext, Driver, Principal};
use crate::internal;
use crate::listen::RequestOrigin;
use crate::quota::Exceeded;
use crate::store::{Cursor, PageRequest};
use audit::LoggedRequest;
use browsers::{Browsers, Effect};
use caller::Caller;
use request::Request;
use rules::Rule;

/// The API over a hub, to be served by the hub's own [`listen`](crate::listen) or by any axum
/// server: where the connection cannot be taken over, streams are ordinary response bodies.
///
/// It answers below `/v1/`, `/metrics`, `/healthz` and `/readyz`, and leaves every other path to the router
/// that it is merged into; [`not_found`] is the fallback of a hub by itself.
pub fn router(driver: Driver) -> Router {
    let browsers = Arc::new(Browsers::new(driver.config()));
    let api = any(move |request| shared_answer(driver.clone(), browsers.clone(), request));
    Router::new()
        .route("/v1/{*path}", api.clone())
        .route("/metrics", api.clone())
        .route("/healthz", api.clone())
        .route("/readyz", api)
}

/// Every method and path of the table, for tests that must miss none.
#[doc(hidden)]
pub fn routes() -> Vec<(String, &'static str)> {
    let of = |route: &'static Route| {
        route.methods.iter().map(|served| (served.method.to_string(), route.path))
    };
    ROUTES.iter().flat_map(of).collect()
}

/// The answer to a path that is not served.
pub async fn not_found() -> Response {
    problem::problem(&Problem::new(Code::NotFound, "nothing is served at this path"))
}

/// A handler: everything after the credentials.
type Handler = fn(Request) -> Pin<Box<dyn Future<Output = Result<Response, Problem>> + Send>>;

/// A path, its names in braces, and its methods.
struct Route {
    path: &'static str,
    methods: &'static [Served],
}

/// A method of a route. Whether it has an effect decides which web pages may cause it; the rule, who may call it.
struct Served {
    method: Method,
    effect: Effect,
    rule: Rule,
    handler: Handler,
}

macro_rules! on {
    // Only a GET can be without an effect.
    (GET reads $rule:ident, $handler:path) => {
        on!(GET, Effect::None, Rule::$rule, $handler)
    };
    ($method:ident acts $rule:ident, $handler:path) => {
        on!($method, Effect::Acts, Rule::$rule, $handler)
    };
    ($method:ident, $effect:expr, $rule:expr, $handler:path) => {
        Served {
            method: Method::$method,
            effect: $effect,
            rule: $rule,
            handler: |request| Box::pin($handler(request)),
        }
    };
}

static ROUTES: &[Route] = &[
    Route { path: "/v1/send/{device}/{action}", methods: &[on!(POST acts Operator, send::send)] },
    Route {
        path: "/v1/commands",
        methods: &[on!(GET reads Operator, command::list), on!(POST acts Operator, send::command)],
    },
    Route {
        path: "/v1/commands/{command}",
        methods: &[
            on!(GET reads Operator, command::show),
            on!(DELETE acts Operator, command::cancel),
        ],
    },
    Route {
        path: "/v1/commands/{command}/deliveries",
        methods: &[on!(GET reads Operator, command::deliveries)],
    },
    Route {
        path: "/v1/commands/{command}/pause",
        methods: &[on!(POST acts Operator, command::pause)],
    },
    Route {
        path: "/v1/commands/{command}/resume",
        methods: &[on!(POST acts Operator, command::resume)],
    },
    Route {
        path: "/v1/commands/{command}/abort",
        methods: &[on!(POST acts Operator, command::abort)],
    },
    Route {
        path: "/v1/commands/{command}/retry",
        methods: &[on!(POST acts Operator, send::retry)],
    },
    Route {
        path: "/v1/commands/{command}/waits",
        methods: &[on!(GET reads Operator, waits::list)],
    },
    Route {
        path: "/v1/commands/{command}/events",
        methods: &[on!(GET reads Operator, command::events)],
    },
    Route {
        path: "/v1/schedules",
        methods: &[
            on!(GET reads Operator, schedule::list),
            on!(POST acts Operator, schedule::create),
        ],
    },
    Route {
        path: "/v1/schedules/{schedule}",
        methods: &[
            on!(GET reads Operator, schedule::show),
            on!(PATCH acts Operator, schedule::change),
            on!(DELETE acts Operator, schedule::delete),
        ],
    },
    Route {
        path: "/v1/schedules/{schedule}/pause",
        methods: &[on!(POST acts Operator, schedule::pause)],
    },
    Route {
        path: "/v1/schedules/{schedule}/resume",
        methods: &[on!(POST acts Operator, schedule::resume)],
    },
    Route { path: "/v1/devices", methods: &[on!(GET reads Operator, device::list)] },
    Route {
        path: "/v1/devices/{device}",
        methods: &[
            on!(GET reads DeviceOrOperator, device::show),
            on!(PUT acts Registrar, device::put),
            on!(PATCH acts Registrar, device::patch),
            on!(DELETE acts Registrar, device::delete),
        ],
    },
    Route { path: "/v1/labels", methods: &[on!(GET reads Operator, device::labels)] },
    Route {
        path: "/v1/devices/{device}/approve",
        methods: &[on!(POST acts Registrar, token::approve)],
    },
    Route {
        path: "/v1/devices/{device}/facts",
        methods: &[on!(PUT acts Device, device::put_facts)],
    },
    Route { path: "/v1/devices/{device}/stream", methods: &[on!(GET acts Device, stream::stream)] },
    Route {
        path: "/v1/devices/{device}/confirm",
        methods: &[on!(POST acts Device, stream::confirm)],
    },
    Route { path: "/v1/devices/{device}/commands", methods: &[on!(GET acts Device, stream::poll)] },
    Route {
        path: "/v1/devices/{device}/commands/{command}/status",
        methods: &[on!(POST acts Device, report::one)],
    },
    Route { path: "/v1/devices/{device}/status", methods: &[on!(POST acts Device, report::batch)] },
    Route {
        path: "/v1/tokens",
        methods: &[on!(GET reads Admin, token::list), on!(POST acts Admin, token::create)],
    },
    Route { path: "/v1/tokens/self", methods: &[on!(GET reads Holder, token::own)] },
    Route { path: "/v1/tokens/{token}", methods: &[on!(DELETE acts Admin, token::revoke)] },
    Route { path: "/v1/enroll", methods: &[on!(POST acts Join, token::enroll)] },
    Route { path: "/v1/audit", methods: &[on!(GET reads Admin, audit::list)] },
    Route { path: "/v1/events", methods: &[on!(GET reads Operator, ops::events)] },
    Route { path: "/v1/ping", methods: &[on!(GET reads Anyone, ping::ping)] },
    Route { path: "/metrics", methods: &[on!(GET reads Metrics, metrics::metrics)] },
    Route { path: "/healthz", methods: &[on!(GET reads Anyone, ops::healthz)] },
    Route { path: "/readyz", methods: &[on!(GET reads Anyone, ops::readyz)] },
];

/// The answer, with what a browser needs to let a page of a listed origin read it.
async fn shared_answer(
    driver: Driver,
    browsers: Arc<Browsers>,
    request: axum::extract::Request,
) -> Response {
    let (mut head, body) = request.into_parts();
    browsers.note(&mut head);
    let origin = browsers::listed_origin(&head);
    let asks = browsers::shows_answers(&head);
    let mut response = answer(driver.clone(), &browsers, head, body).await;
    let refused = response.extensions().get::<Code>().copied();
    driver.metrics().answered(response.status().as_u16(), refused);
    if asks && response.status() == StatusCode::UNAUTHORIZED {
        problem::offer_basic(&mut response);
    }
    browsers.share(origin, &mut response);
    response
}

/// The refusal of a caller that exceeds its limits.
fn exceeded(exceeded: &Exceeded) -> Response {
    let retry_after = exceeded.retry_after_s.to_string();
    problem::with(problem::problem(&exceeded.problem), header::RETRY_AFTER, &retry_after)
}

/// The first checks of every request: its length, then route, method, page, credentials.
async fn answer(driver: Driver, browsers: &Browsers, head: Parts, body: Body) -> Response {
    if head.uri.path_and_query().is_some_and(|target| target.as_str().len() > URI_BYTES_MAX) {
        let detail = format!("path and query are at most {URI_BYTES_MAX} bytes");
        return problem::problem(&Problem::new(Code::UriTooLong, detail));
    }
    let Some(route) = Route::find(head.uri.path()) else {
        return not_found().await;
    };
    if head.method == Method::OPTIONS {
        return options(browsers, route, &head, is_open_for(&driver, &head));
    }
    let Some(served) = route.served(&head.method) else {
        let allow = route.allow();
        let refusal = Problem::new(Code::MethodNotAllowed, format!("this path offers {allow}"));
        return problem::with(problem::problem(&refusal), header::ALLOW, &allow);
    };
    let logged = LoggedRequest::of(served, route.path, &head);
    let address = request::address(&head);
    let refuse = |principal: Principal, refusal: &Problem| {
        logged
            .refused(&driver.acting_for(Arc::new(AuditContext::new(principal, address))), refusal);
        problem::problem(refusal)
    };
    let refuse_for_now = |principal: Principal, refusal: &Exceeded| {
        refuse(principal, &refusal.problem);
        exceeded(refusal)
    };
    let now = driver.clocks().instant;
    if let Err(refusal) = driver.quota().request(address, now) {
        return refuse_for_now(Principal::Unauthenticated, &refusal);
    }
    let open = is_open_for(&driver, &head);
    let page = if open {
        browsers.check(&head, served.effect)
    } else {
        browsers.check_page_of(&head, served.effect)
    };
    if let Err(refusal) = page {
        return refuse(Principal::Unauthenticated, &refusal);
    }
    let caller = match caller(&driver, served, &head).await {
        Ok(caller) => caller,
        Err(refusal) => {
            let failed = refusal.code == Code::Unauthenticated
                && head.headers.contains_key(header::AUTHORIZATION);
            let slowed = failed.then(|| driver.quota().failed_credential(address, now)).flatten();
            return match slowed {
                Some(slowed) => refuse_for_now(Principal::Unauthenticated, &slowed),
                None => refuse(Principal::Unauthenticated, &refusal),
            };
        }
    };
    if let Some(name) = caller.name()
        && let Err(refusal) = driver.quota().request_with(&name, caller.role_name(), now)
    {
        return refuse_for_now(audit::principal(&caller), &refusal);
    }
    if let Err(refusal) = allowed(&caller, route, served, &head) {
        return refuse(audit::principal(&caller), &refusal);
    }
    let driver = driver.acting_for(Arc::new(AuditContext::new(audit::principal(&caller), address)));
    let request = Request::new(driver.clone(), caller, route.path, head, body);
    match caught((served.handler)(request)).await {
        Ok(response) => {
            logged.answered(&driver, &response);
            response
        }
        Err(refusal) => {
            logged.refused(&driver, &refusal);
            problem::problem(&refusal)
        }
    }
}

/// Whether a request needs no credential: the hub is open, or the listener that it came by.
fn is_open_for(driver: &Driver, head: &Parts) -> bool {
    driver.is_open() || head.extensions.get::<RequestOrigin>().is_some_and(|from| from.open)
}

/// Who is calling.
async fn caller(driver: &Driver, served: &Served, head: &Parts) -> Result<Caller, Problem> {
    match served.rule {
        Rule::Anyone => Ok(Caller::Anonymous),
        _ => Caller::of(driver, head).await,
    }
}

/// Whether the rule of the route allows it.
fn allowed(caller: &Caller, route: &Route, served: &Served, head: &Parts) -> Result<(), Problem> {
    served.rule.check(caller, || {
        let name = request::segment(route.path, head.uri.path(), "device").ok()?;
        name.parse::<DeviceId>().ok()
    })
}

/// The answer to `OPTIONS`: the methods, or the leave for a page of a listed origin to use them.
fn options(browsers: &Browsers, route: &Route, head: &Parts, open: bool) -> Response {
    let allow = route.allow();
    let host = if open { browsers.check_host(head) } else { Ok(()) };
    let checked = match host {
        Ok(()) if browsers::listed_origin(head).is_some() => Ok(()),
        Ok(()) => browsers.check_page_of(head, route.effect_of_get()),
        refused => refused,
    };
    match checked {
        Ok(()) => browsers::preflight(head, &allow)
            .unwrap_or_else(|| problem::with(problem::empty(), header::ALLOW, &allow)),
        Err(refusal) => problem::problem(&refusal),
    }
}

impl Route {
    fn find(path: &str) -> Option<&'static Self> {
        // `/v1/tokens/self` is before `/v1/tokens/{token}`: the first that fits.
        ROUTES.iter().find(|route| {
            let (mut pattern, mut path) = (route.path.split('/'), path.split('/'));
            loop {
                match (pattern.next(), path.next()) {
                    (None, None) => return true,
                    (Some(expected), Some(given)) if is_name(expected) || expected == given => {}
                    _ => return false,
                }
            }
        })
    }

    /// HEAD is GET without the body, which the server leaves out.
    fn served(&self, method: &Method) -> Option<&Served> {
        let method = if method == Method::HEAD { &Method::GET } else { method };
        self.methods.iter().find(|served| served.method == method)
    }

    fn effect_of_get(&self) -> Effect {
        self.served(&Method::GET).map_or(Effect::None, |served| served.effect)
    }

    fn allow(&self) -> String {
        let mut allow = String::new();
        for Served { method, .. } in self.methods {
            allow.push_str(method.as_str());
            allow.push_str(if *method == Method::GET { ", HEAD, " } else { ", " });
        }
        allow.push_str("OPTIONS");
        allow
    }
}

/// Whether a segment of a route's path is the placeholder of a name.
fn is_name(segment: &str) -> bool {
    segment.starts_with('{')
}

/// The page of a list that is requested: `limit` and `after`.
fn page_request(query: &mut params::Query) -> Result<PageRequest, Problem> {
    let limit = query.number("limit", PAGE_ITEMS)?.unwrap_or(PAGE_ITEMS.default);
    Ok(PageRequest {
        limit: u32::try_from(limit).unwrap_or(u32::MAX),
        after: query.value::<Cursor>("after")?,
    })
}

/// Runs a handler. A panic is answered as a fault of the hub, where the connection would otherwise be
/// closed. (The panic hook reports the panic itself.)
async fn caught(
    mut handling: Pin<Box<dyn Future<Output = Result<Response, Problem>> + Send>>,
) -> Result<Response, Problem> {
    poll_fn(move |context| {
        // A handler that panicked is not polled again, and shares no state.
        let polled = catch_unwind(AssertUnwindSafe(|| handling.as_mut().poll(context)));
        polled.unwrap_or_else(|_| Poll::Ready(Err(internal::panicked())))
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_matched_as_it_came() {
        for (path, route) in [
            ("/v1/send/d/a", Some("/v1/send/{device}/{action}")),
            ("/v1/send//a", Some("/v1/send/{device}/{action}")),
            ("/v1/send/d/", Some("/v1/send/{device}/{action}")),
            ("/v1/send/a%2Fb/c", Some("/v1/send/{device}/{action}")),
            ("/v1/devices//stream", Some("/v1/devices/{device}/stream")),
            ("/v1/devices/d/stream/", None),
            ("/v1/devices/d/", None),
            ("/v1/send/a/b/c", None),
            ("/v1/%73end/d/a", None),
            ("/V1/ping", None),
            ("/v1/ping/", None),
            ("/", None),
            ("", None),
        ] {
            assert_eq!(Route::find(path).map(|r| r.path), route, "{path:?}");
        }
    }

    #[test]
    fn allow_lists_the_methods_of_a_path() {
        let devices = Route::find("/v1/devices/d").unwrap();
        assert_eq!(devices.allow(), "GET, HEAD, PUT, PATCH, DELETE, OPTIONS");
        assert!(devices.served(&Method::HEAD).is_some());
        assert!(devices.served(&Method::POST).is_none());
        assert!(Route::find("/v1/send/d/a").unwrap().served(&Method::HEAD).is_none());
    }

    #[test]
    fn no_path_is_served_twice() {
        for route in ROUTES {
            let found = Route::find(route.path).map(|r| r.path);
            assert_eq!(found, Some(route.path));
        }
    }

    /// Each entry states its effect, or the table does not compile. Here is what the contract says of them.
    #[test]
    fn a_get_reads_save_where_it_listens_as_a_device_and_all_else_has_an_effect() {
        let listens = ["/v1/devices/{device}/stream", "/v1/devices/{device}/commands"];
        for route in ROUTES {
            for Served { method, effect, .. } in route.methods {
                let acts = *method != Method::GET || listens.contains(&route.path);
                assert_eq!(*effect == Effect::Acts, acts, "{method} {}", route.path);
            }
        }
    }

    #[tokio::test]
    async fn a_handler_that_panics_is_answered_as_a_fault_of_the_hub() {
        let refusal = caught(Box::pin(async { panic!("on purpose") })).await;
        assert_eq!(refusal.unwrap_err().code, Code::Internal);
    }
}
