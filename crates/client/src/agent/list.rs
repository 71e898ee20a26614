//! The list that the engine consults: the policy, and the types that closures require of their data.

use std::collections::HashMap;

use bellwire_proto::{Action, ErrorInfo, Json, codes};
use serde::de::DeserializeOwned;

use super::engine::{Admission, RunSettings};
use super::policy::{Policy, Rules};
use super::run::error;

/// What may run.
#[derive(Default)]
pub(super) struct List {
    pub(super) policy: Policy,
    checks: HashMap<Action, Check>,
}

type Check = fn(&Json) -> Result<(), ErrorInfo>;

impl List {
    /// Puts an action on the list, in place of an earlier one of this name.
    pub(super) fn allow(&mut self, action: Action, rules: Rules) {
        self.checks.remove(&action);
        self.policy.allow(action, rules);
    }

    /// As [`List::allow`], for data of one type alone.
    pub(super) fn allow_typed<P: DeserializeOwned>(&mut self, action: Action, rules: Rules) {
        self.allow(action.clone(), rules);
        self.checks.insert(action, |data| match data.read::<P>() {
            Ok(_) => Ok(()),
            Err(problem) => Err(error(codes::INVALID_PARAMS, problem.to_string())),
        });
    }
}

impl Admission for List {
    fn admit(&self, action: &Action, data: &Json) -> Result<(), ErrorInfo> {
        self.policy.judge(action, data)?;
        self.checks.get(action).map_or(Ok(()), |check| check(data))
    }

    fn run_settings(&self, action: &Action) -> Option<RunSettings> {
        let rules = self.policy.rules(action)?;
        let Rules { on_restart, concurrency, timeout, .. } = **rules;
        Some(RunSettings { on_restart, concurrency, timeout })
    }
}
