//! Evaluates the JavaScript of a PAC file, by QuickJS-ng: one evaluation has an engine of its own, which is gone afterwards.
//!
//! Bounded by an interrupt at the deadline, a limit of memory and one of the stack. It blocks until the deadline at most, with
//! one exception: a built-in function of the engine that works on a text or an array of absurd length is not interrupted. So the
//! caller runs it on a thread of its own, and does not wait for it for ever.

use std::cell::Cell;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bellwire_proto::limits::{PAC_MEMORY_BYTES_MAX, PAC_TIMEOUT};
use rquickjs::context::{EvalOptions, intrinsic};
use rquickjs::function::Rest;
use rquickjs::{
    CatchResultExt as _, CaughtError, Coerced, Context, Ctx, Exception, Function, Runtime, Value,
};

use super::calendar::{Moment, Now, date_range, time_range, weekday_range};
use super::lookup::{Lookups, ResolveFn, of_system, own_addresses};
use super::names::{
    dns_domain_is, dns_domain_levels, is_in_net, is_in_prefix, is_plain_host_name,
    local_host_or_domain_is, sh_exp_match,
};
use super::{PacAnswer, PacFault};

/// The stack of the script, in bytes; the thread must have twice as much.
pub(super) const STACK_BYTES_MAX: usize = 512 << 10;
/// What the engine calls the script in its errors.
const FILE_NAME: &str = "proxy.pac";
/// Characters of an error or an alert that are shown.
const SHOWN_CHARS_MAX: usize = 300;
/// Alerts of an evaluation that are logged.
const ALERTS_MAX: u32 = 20;

/// The local time and GMT as the engine knows them: it has the rules of the time zone.
const NOW: &str = "(function () { var d = new Date(); return [\
    d.getFullYear(), d.getMonth(), d.getDate(), d.getDay(), d.getHours(), d.getMinutes(), d.getSeconds(), \
    d.getUTCFullYear(), d.getUTCMonth(), d.getUTCDate(), d.getUTCDay(), d.getUTCHours(), d.getUTCMinutes(), \
    d.getUTCSeconds()]; })()";

/// The parts of JavaScript that a PAC file has.
type Intrinsics = (
    intrinsic::Date,
    intrinsic::Eval,
    intrinsic::RegExpCompiler,
    intrinsic::RegExp,
    intrinsic::Json,
    intrinsic::MapSet,
);

/// What an evaluation may use.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub(super) time: Duration,
    pub(super) memory_bytes: usize,
    pub(super) resolver: ResolveFn,
}

impl Default for Limits {
    fn default() -> Self {
        Self { time: PAC_TIMEOUT, memory_bytes: PAC_MEMORY_BYTES_MAX, resolver: of_system }
    }
}

/// Runs the script and checks that it defines the function.
pub(super) fn check(script: &str, limits: Limits) -> Result<(), PacFault> {
    evaluate(script, limits, |_, _| Ok(()))
}

/// Runs the script and calls its function.
pub(super) fn find_proxy(
    script: &str,
    limits: Limits,
    url: &str,
    host: &str,
) -> Result<PacAnswer, PacFault> {
    let urls = [(url.to_owned(), host.to_owned())];
    find_proxies(script, limits, &urls)?.pop().unwrap_or(Err(PacFault::NoFunction))
}

/// Runs the script once and calls its function for each URL and host.
pub(super) fn find_proxies(
    script: &str,
    limits: Limits,
    urls: &[(String, String)],
) -> Result<Vec<Result<PacAnswer, PacFault>>, PacFault> {
    evaluate(script, limits, |function, deadline| {
        let answers = urls.iter().map(|(url, host)| {
            let ctx = function.ctx();
            let answer = call(&function, url, host).catch(ctx);
            let answer = answer.map_err(|error| fault_of(ctx, &error, deadline.reached.get()))?;
            PacAnswer::parse(&answer.map_err(|kind| PacFault::NoText { kind })?)
        });
        Ok(answers.collect())
    })
}

/// The text that the function returns, or the type of what it is.
fn call(
    function: &Function<'_>,
    url: &str,
    host: &str,
) -> rquickjs::Result<Result<String, String>> {
    let answer: Value = function.call((url, host))?;
    Ok(match answer.as_string() {
        Some(text) => Ok(text.to_string()?),
        // As defined: no proxy is used.
        None if answer.is_null() => Ok(String::new()),
        // Its text may be the script's own work: the type says enough.
        None => Err(answer.type_name().to_owned()),
    })
}

/// What the functions of one evaluation share.
struct Host {
    now: Now,
    lookups: Lookups,
    alerts: Cell<u32>,
    deadline: Rc<Deadline>,
}

/// When an evaluation ends, and whether it had to.
struct Deadline {
    at: Instant,
    reached: Cell<bool>,
}

impl Deadline {
    fn is_reached(&self) -> bool {
        self.reached.set(self.reached.get() || Instant::now() >= self.at);
        self.reached.get()
    }
}

fn evaluate<T>(
    script: &str,
    limits: Limits,
    task: impl FnOnce(Function<'_>, &Deadline) -> rquickjs::Result<T>,
) -> Result<T, PacFault> {
    let at = Instant::now() + limits.time;
    let deadline = Rc::new(Deadline { at, reached: Cell::new(false) });
    let broken =
        |error: rquickjs::Error| PacFault::Script { line: None, message: error.to_string() };
    let runtime = Runtime::new().map_err(broken)?;
    runtime.set_memory_limit(limits.memory_bytes);
    runtime.set_max_stack_size(STACK_BYTES_MAX);
    let interrupt = Rc::clone(&deadline);
    runtime.set_interrupt_handler(Some(Box::new(move || interrupt.is_reached())));
    let context = Context::custom::<Intrinsics>(&runtime).map_err(broken)?;
    context.with(|ctx| {
        let lookups = Lookups::new(limits.resolver, deadline.at);
        let outcome = prepare(&ctx, lookups, &deadline)
            .and_then(|()| run(&ctx, script))
            .and_then(|function| function.map(|function| task(function, &deadline)).transpose());
        match outcome.catch(&ctx) {
            Ok(done) => done.ok_or(PacFault::NoFunction),
            Err(error) => Err(fault_of(&ctx, &error, deadline.reached.get())),
        }
    })
}

/// Runs the script and returns its function, if it defines one.
fn run<'js>(ctx: &Ctx<'js>, script: &str) -> rquickjs::Result<Option<Function<'js>>> {
    let mut options = EvalOptions::default();
    options.strict = false;
    options.filename = Some(FILE_NAME.to_owned());
    ctx.eval_with_options::<Value, _>(script, options)?;
    let function: Value =
        ctx.eval("typeof FindProxyForURL === 'function' ? FindProxyForURL : undefined")?;
    Ok(function.into_function())
}

/// A value that a function returns to the script.
enum Returned {
    Truth(bool),
    Number(usize),
    Text(String),
    Null,
    Nothing,
}

impl<'js> rquickjs::IntoJs<'js> for Returned {
    fn into_js(self, ctx: &Ctx<'js>) -> rquickjs::Result<Value<'js>> {
        match self {
            Self::Truth(value) => value.into_js(ctx),
            Self::Number(value) => value.into_js(ctx),
            Self::Text(value) => value.into_js(ctx),
            Self::Null => Ok(Value::new_null(ctx.clone())),
            Self::Nothing => Ok(Value::new_undefined(ctx.clone())),
        }
    }
}

type Defined = fn(&Host, &[&str]) -> Returned;

/// The functions of PAC files; those whose names end with `Ex` are Microsoft's, for IPv6.
const FUNCTIONS: [(&str, Defined); 17] = [
    ("isPlainHostName", |_, given| Returned::Truth(is_plain_host_name(text(given, 0)))),
    ("dnsDomainIs", |_, given| Returned::Truth(dns_domain_is(text(given, 0), text(given, 1)))),
    ("localHostOrDomainIs", |_, given| {
        Returned::Truth(local_host_or_domain_is(text(given, 0), text(given, 1)))
    }),
    ("isResolvable", |host, given| {
        Returned::Truth(!host.lookups.addresses(text(given, 0)).is_empty())
    }),
    ("isResolvableEx", |host, given| {
        Returned::Truth(!host.lookups.addresses(text(given, 0)).is_empty())
    }),
    ("isInNet", |host, given| {
        let (pattern, mask) = (text(given, 1), text(given, 2));
        // Without a pattern that is an address there is nothing to look up for.
        let Ok(family) = pattern.parse::<IpAddr>() else { return Returned::Truth(false) };
        let found = host.lookups.addresses(text(given, 0)).into_iter();
        let mut same = found.filter(|address| address.is_ipv4() == family.is_ipv4());
        Returned::Truth(same.next().is_some_and(|address| is_in_net(address, pattern, mask)))
    }),
    ("isInNetEx", |host, given| {
        let found = host.lookups.addresses(text(given, 0));
        Returned::Truth(found.into_iter().any(|address| is_in_prefix(address, text(given, 1))))
    }),
    ("dnsResolve", |host, given| {
        let first = host.lookups.addresses(text(given, 0)).into_iter().next();
        first.map_or(Returned::Null, |address| Returned::Text(address.to_string()))
    }),
    ("dnsResolveEx", |host, given| Returned::Text(list(&host.lookups.addresses(text(given, 0))))),
    ("myIpAddress", |_, _| {
        let first = own_addresses().into_iter().next();
        first.map_or(Returned::Null, |address| Returned::Text(address.to_string()))
    }),
    ("myIpAddressEx", |_, _| Returned::Text(list(&own_addresses()))),
    ("dnsDomainLevels", |_, given| Returned::Number(dns_domain_levels(text(given, 0)))),
    ("shExpMatch", |_, given| Returned::Truth(sh_exp_match(text(given, 0), text(given, 1)))),
    ("weekdayRange", |host, given| Returned::Truth(weekday_range(&host.now, given))),
    ("dateRange", |host, given| Returned::Truth(date_range(&host.now, given))),
    ("timeRange", |host, given| Returned::Truth(time_range(&host.now, given))),
    ("alert", |host, given| {
        if host.alerts.get() < ALERTS_MAX {
            host.alerts.set(host.alerts.get() + 1);
            tracing::debug!("the PAC file alerts: {}", shown(text(given, 0)));
        }
        Returned::Nothing
    }),
];

fn text<'a>(given: &[&'a str], index: usize) -> &'a str {
    given.get(index).copied().unwrap_or_default()
}

fn list(addresses: &[IpAddr]) -> String {
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    addresses.join(";")
}

/// Defines the functions.
fn prepare(ctx: &Ctx<'_>, lookups: Lookups, deadline: &Rc<Deadline>) -> rquickjs::Result<()> {
    let parts: Vec<i32> = ctx.eval(NOW)?;
    let moment = |offset: usize| {
        let part = |index: usize| parts.get(offset + index).copied().unwrap_or_default();
        Moment {
            year: part(0),
            month: part(1),
            day: part(2),
            weekday: part(3),
            hour: part(4),
            minute: part(5),
            second: part(6),
        }
    };
    let now = Now { local: moment(0), gmt: moment(7) };
    let deadline = Rc::clone(deadline);
    let host = Rc::new(Host { now, lookups, alerts: Cell::new(0), deadline });
    for (name, defined) in FUNCTIONS {
        let host = Rc::clone(&host);
        let function = move |ctx: Ctx<'_>, given: Rest<Coerced<String>>| {
            // The engine's own interrupt is thousands of calls apart, and one may take long.
            if host.deadline.is_reached() {
                return Err(Exception::throw_internal(&ctx, "interrupted"));
            }
            let given: Vec<&str> = given.0.iter().map(|text| text.0.as_str()).collect();
            Ok(defined(&host, &given))
        };
        ctx.globals().set(name, Function::new(ctx.clone(), function)?.with_name(name)?)?;
    }
    Ok(())
}

fn fault_of(ctx: &Ctx<'_>, error: &CaughtError<'_>, interrupted: bool) -> PacFault {
    let (message, stack) = match error {
        CaughtError::Exception(exception) => {
            let kind = exception.as_object().get::<_, Coerced<String>>("name");
            let kind = kind.map(|kind| kind.0).unwrap_or_else(|_| "Error".to_owned());
            let message = exception.message().unwrap_or_default();
            (format!("{kind}: {message}"), exception.stack().unwrap_or_default())
        }
        CaughtError::Value(value) => {
            let text = value.get::<Coerced<String>>().map(|text| text.0);
            (format!("it threw {}", text.unwrap_or_else(|_| "a value".to_owned())), String::new())
        }
        CaughtError::Error(error) => (error.to_string(), String::new()),
    };
    // What the text of an error costs may have thrown another one.
    ctx.catch();
    let line = line_of(&stack);
    let is_out_of_memory = match error {
        CaughtError::Exception(_) => message.ends_with("out of memory"),
        // What the engine throws where there is no memory for an error.
        CaughtError::Value(value) => value.is_null(),
        CaughtError::Error(error) => matches!(error, rquickjs::Error::Allocation),
    };
    match () {
        () if interrupted => PacFault::OutOfTime { line },
        () if is_out_of_memory => PacFault::OutOfMemory { line },
        () => PacFault::Script { line, message: shown(&message) },
    }
}

/// The line that the stack of an error names first: `at FindProxyForURL (proxy.pac:12:5)`. The engine knows the lines of names
/// and calls; of an error elsewhere it has the line of the last one before.
fn line_of(stack: &str) -> Option<u32> {
    let (_, rest) = stack.split_once(FILE_NAME)?;
    let digits: String =
        rest.strip_prefix(':')?.chars().take_while(char::is_ascii_digit).take(9).collect();
    digits.parse().ok()
}

/// One line of it, without control characters.
fn shown(text: &str) -> String {
    let mut line = String::new();
    for character in text.chars().take(SHOWN_CHARS_MAX) {
        // Writing to a text does not fail.
        let _ = line.write_char(if character.is_control() { ' ' } else { character });
    }
    line
}

#[cfg(test)]
mod tests;
