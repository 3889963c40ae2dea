//! Which requests are hit by which fault.

use std::sync::Mutex;
use std::time::Duration;

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::http::Head;

/// What is done to a request.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// The server does it; the client sees the connection close. A server's refusal is passed on and is no hit.
    LoseAnswer,
    /// The server never sees it; the client sees the connection close.
    LoseRequest,
    /// The server never sees it; the client gets a 503.
    Error503Before,
    /// The server does it; the client gets a 503. A server's refusal is passed on and is no hit.
    Error503After,
    /// It goes on after so long.
    Delay(Duration),
    /// Nothing happens until the client goes away.
    Hang,
    /// A PUT is done whatever its condition says, and answered with 200.
    IgnoreCondition,
}

/// A fault and the requests it is for: all, until narrowed.
#[derive(Debug, Clone)]
pub struct Rule {
    fault: Fault,
    method: Option<&'static str>,
    path: Option<String>,
    header: Option<&'static str>,
    chance: f64,
    skip: u64,
    times: u64,
}

impl Rule {
    /// Does `fault` to every request.
    pub fn new(fault: Fault) -> Self {
        Self { fault, method: None, path: None, header: None, chance: 1.0, skip: 0, times: u64::MAX }
    }

    /// The PUT-if-absent requests that commit to Delta.
    pub fn on_commit(fault: Fault) -> Self {
        Self::new(fault).method("PUT").path("/_delta_log/").header("if-none-match")
    }

    /// Only requests with this method.
    pub fn method(mut self, method: &'static str) -> Self {
        self.method = Some(method);
        self
    }

    /// Only requests whose target (path and query, as sent) contains `part`.
    pub fn path(mut self, part: impl Into<String>) -> Self {
        self.path = Some(part.into());
        self
    }

    /// Only requests with this header.
    pub fn header(mut self, name: &'static str) -> Self {
        self.header = Some(name);
        self
    }

    /// Each with this probability.
    pub fn chance(mut self, chance: f64) -> Self {
        self.chance = chance;
        self
    }

    /// Not the first `count` that match.
    pub fn skip(mut self, count: u64) -> Self {
        self.skip = count;
        self
    }

    /// At most `count` times.
    pub fn times(mut self, count: u64) -> Self {
        self.times = count;
        self
    }

    fn matches(&self, head: &Head) -> bool {
        self.method.is_none_or(|method| head.method() == method)
            && self.path.as_ref().is_none_or(|part| head.target().contains(part.as_str()))
            && self.header.is_none_or(|name| head.header(name).is_some())
    }
}

/// A rule of one proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuleId(usize);

pub struct Rules {
    state: Mutex<State>,
}

struct State {
    rules: Vec<Kept>,
    random: StdRng,
}

struct Kept {
    rule: Rule,
    on: bool,
    seen: u64,
    hits: u64,
}

impl Default for Rules {
    fn default() -> Self {
        Self { state: Mutex::new(State { rules: Vec::new(), random: StdRng::seed_from_u64(1) }) }
    }
}

impl Rules {
    pub fn add(&self, rule: Rule) -> RuleId {
        let rules = &mut self.state.lock().unwrap().rules;
        rules.push(Kept { rule, on: true, seen: 0, hits: 0 });
        RuleId(rules.len() - 1)
    }

    pub fn remove(&self, RuleId(index): RuleId) {
        self.state.lock().unwrap().rules[index].on = false;
    }

    pub fn clear(&self) {
        self.state.lock().unwrap().rules.iter_mut().for_each(|kept| kept.on = false);
    }

    pub fn hits(&self, RuleId(index): RuleId) -> u64 {
        self.state.lock().unwrap().rules[index].hits
    }

    /// The fault of the first rule that is for this request and not used up, which is one hit.
    pub fn pick(&self, head: &Head) -> Option<(RuleId, Fault)> {
        let State { rules, random } = &mut *self.state.lock().unwrap();
        for (index, kept) in rules.iter_mut().enumerate().filter(|(_, kept)| kept.on && kept.rule.matches(head)) {
            kept.seen += 1;
            if kept.seen > kept.rule.skip && kept.hits < kept.rule.times && random.random_bool(kept.rule.chance) {
                kept.hits += 1;
                return Some((RuleId(index), kept.rule.fault));
            }
        }
        None
    }

    /// The fault was not done after all.
    pub fn take_back(&self, RuleId(index): RuleId) {
        self.state.lock().unwrap().rules[index].hits -= 1;
    }
}
