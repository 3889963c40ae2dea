//! The life of the alerts of one rule: what becomes of its keys. Pure: times are event times, and given.
//!
//! ```text
//! quiet ── true ──▶ pending ── `for` is over ──▶ firing ── false, or `resolve_when` ──▶ quiet, for `cooldown`
//!            ▲         │ false                     │ every `repeat`: told again, with the same id
//!            └─────────┘                           ▼
//! ```
//! Unknown (NULL) changes nothing. With `absent_for` a key is pending from each of its rows on, and the next row resolves
//! it. With `once` a row is an event and no condition: it is told, and nothing resolves.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Microseconds since 1970.
pub type Micros = i64;

/// What alerts are told apart by: a JSON object of the key's columns, in their order.
pub type Key = Arc<str>;

/// How a rule's alerts begin and end; durations in microseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Terms {
    /// How long the condition must hold.
    pub hold: Micros,
    /// The condition's end resolves nothing: another one does.
    pub resolve_when: bool,
    /// After an alert, for how long its key raises no other.
    pub cooldown: Micros,
    /// A firing alert is told again so often.
    pub repeat: Option<Micros>,
    /// A row that fulfils the condition is an event.
    pub once: bool,
    /// The condition is that no row has come for so long.
    pub absent_for: Option<Micros>,
}

/// The record that made something so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// Its topic.
    pub topic: Arc<str>,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
}

/// What one row says of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// The key.
    pub key: Key,
    /// Whether the condition holds, if that is known.
    pub holds: Option<bool>,
    /// Whether the alert is over, if that is known and another condition says so.
    pub is_over: Option<bool>,
}

/// What has become of an alert.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Became {
    /// It has begun.
    Firing,
    /// It goes on.
    Repeated,
    /// It is over.
    Resolved,
}

impl Became {
    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Firing => "firing",
            Self::Repeated => "repeated",
            Self::Resolved => "resolved",
        }
    }
}

/// An alert, as long as it fires.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Alert<R> {
    /// The same however often it is computed.
    pub id: String,
    /// Since when the condition holds.
    pub starts_at: Micros,
    /// When it had held for long enough.
    pub fired_at: Micros,
    /// The record that began it.
    pub cause: Cause,
    /// The row that is told.
    pub row: R,
}

/// Something to be told.
#[derive(Debug, Clone, PartialEq)]
pub struct Transition<R> {
    /// Whose.
    pub key: Key,
    /// The entity of the stream whose rows speak of the key.
    pub entity: Key,
    /// What has become of it.
    pub became: Became,
    /// When, in event time.
    pub at: Micros,
    /// The alert.
    pub alert: Alert<R>,
}

/// What is known of a key that is not quiet, or was not long ago.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Instance<R> {
    /// The entity of the stream whose rows speak of the key.
    pub entity: Key,
    /// What it does.
    pub phase: Phase<R>,
    /// Nothing is raised before this.
    pub quiet_until: Micros,
    /// Rows that are older say nothing: what they said was told before a restart.
    known_at: Micros,
    /// When it must be looked at.
    timer: Option<Micros>,
}

/// What a key does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase<R> {
    /// Nothing.
    Quiet,
    /// The condition holds, and not for long enough.
    Pending {
        /// Since when.
        since: Micros,
        /// The record that began it.
        cause: Cause,
        /// The newest row.
        row: R,
    },
    /// An alert fires.
    Firing(Alert<R>),
}

/// The keys of one rule.
#[derive(Debug)]
pub struct Life<R> {
    rule: String,
    terms: Terms,
    instances: HashMap<Key, Instance<R>>,
    of_entity: HashMap<Key, BTreeSet<Key>>,
    timers: BTreeSet<(Micros, Key)>,
    /// Before this nobody could speak, so nobody was silent.
    silent_from: Micros,
}

impl<R: Clone> Life<R> {
    /// Nothing is known of any key.
    pub fn new(rule: &str, terms: Terms) -> Self {
        Self {
            rule: rule.to_owned(),
            terms,
            instances: HashMap::new(),
            of_entity: HashMap::new(),
            timers: BTreeSet::new(),
            silent_from: Micros::MIN,
        }
    }

    /// What is known of keys, from [`Self::instances`] of a life of the same rule, maybe on other terms.
    pub fn restore(&mut self, known: impl IntoIterator<Item = (Key, Instance<R>)>) {
        for (key, instance) in known {
            self.of_entity.entry(Arc::clone(&instance.entity)).or_default().insert(Arc::clone(&key));
            let before = instance.timer;
            self.instances.insert(Arc::clone(&key), Instance { timer: None, ..instance });
            // What was repeated already is repeated later.
            let due = self.due(&key).map(|due| before.map_or(due, |before| due.max(before)));
            self.set_timer_at(&key, due);
        }
    }

    /// Takes over what was told of a key before a restart, after what is known of it. `comes_again`: so do the rows that
    /// it was told of.
    pub fn adopt(&mut self, told: &Transition<R>, comes_again: bool) {
        let Transition { key, entity, became, at, alert } = told;
        let terms = self.terms.clone();
        let instance = self.instance(key, entity);
        let ends = *became == Became::Resolved || terms.once;
        instance.phase = if ends { Phase::Quiet } else { Phase::Firing(alert.clone()) };
        if ends {
            instance.quiet_until = at.saturating_add(terms.cooldown);
        }
        if comes_again {
            instance.known_at = *at;
        }
        match became {
            _ if ends && !comes_again && terms.cooldown == 0 => self.remove(key),
            Became::Repeated => self.set_timer_at(key, terms.repeat.map(|repeat| at.saturating_add(repeat))),
            Became::Firing | Became::Resolved => self.set_timer(key),
        }
    }

    /// Keys that are not quiet, or were not long ago.
    pub fn instances(&self) -> impl Iterator<Item = (&Key, &Instance<R>)> {
        self.instances.iter()
    }

    /// Whether rows of an entity may speak of a key that is not quiet, or was not long ago.
    pub fn knows(&self, entity: &Key) -> bool {
        self.of_entity.contains_key(entity)
    }

    /// True if all keys are quiet, and have been for a while.
    pub fn is_empty(&self) -> bool {
        self.instances.is_empty()
    }

    /// How many keys fire now.
    pub fn firing(&self) -> usize {
        self.instances.values().filter(|instance| matches!(instance.phase, Phase::Firing(_))).count()
    }

    /// When something may happen to a key without a row.
    pub fn timer(&self, key: &Key) -> Option<Micros> {
        self.instances.get(key)?.timer
    }

    /// When something may happen without a row.
    pub fn next_timer(&self) -> Option<Micros> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Takes in what a row of `entity` says at its time: of each key that the row names, and that of all others which
    /// older rows named the condition does not hold any more. `row` gives the row that is told for one of them.
    pub fn take(
        &mut self,
        entity: &Key,
        at: Micros,
        cause: &Cause,
        said: &[Said],
        row: impl Fn(usize) -> R,
        told: &mut Vec<Transition<R>>,
    ) {
        for (number, said) in said.iter().enumerate() {
            self.hear(entity, at, cause, said, || row(number), told);
        }
        if self.terms.absent_for.is_none()
            && let Some(known) = self.of_entity.get(entity)
        {
            let is_named = |key: &&Key| said.iter().any(|said| said.key == **key);
            let gone = known.iter().filter(|key| !is_named(key) && !self.is_known(key, at));
            let gone: Vec<Key> = gone.cloned().collect();
            for key in gone {
                self.ring(&key, at, told);
                self.end(&key, at, told);
            }
        }
    }

    /// Nobody could speak before `at`: silence counts from then on.
    pub fn silence_from(&mut self, at: Micros) {
        self.silent_from = self.silent_from.max(at);
    }

    /// A key that must speak: from now on its silence counts, if it is not known.
    pub fn expect(&mut self, key: &Key, at: Micros, cause: Cause, row: R) {
        if !self.instances.contains_key(key) {
            self.begin(key, key, at, cause, row);
        }
    }

    /// Keys of which nothing is to be expected any more are forgotten; their alerts are over.
    pub fn forget(&mut self, at: Micros, is_kept: impl Fn(&Key) -> bool, told: &mut Vec<Transition<R>>) {
        let gone: Vec<Key> = self.instances.keys().filter(|key| !is_kept(key)).cloned().collect();
        for key in gone {
            self.ring(&key, at, told);
            self.end(&key, at, told);
            self.remove(&key);
        }
    }

    /// The condition is true of these keys only, as far as anybody knows; that it was of others nobody has heard since.
    pub fn only(&mut self, at: Micros, is_true: impl Fn(&Key) -> bool, told: &mut Vec<Transition<R>>) {
        let gone: Vec<Key> = self.instances.keys().filter(|key| !is_true(key)).cloned().collect();
        for key in gone {
            let Some(instance) = self.instances.get_mut(&key) else { continue };
            match instance.phase {
                Phase::Quiet => {}
                Phase::Pending { .. } => self.end(&key, at, told),
                Phase::Firing(_) => {
                    self.ring(&key, at, told);
                    self.end(&key, at, told);
                }
            }
        }
    }

    /// The clock stands at `clock`: what was due until then happens.
    pub fn advance(&mut self, clock: Micros, told: &mut Vec<Transition<R>>) {
        while let Some((_, key)) = self.timers.first().filter(|(due, _)| *due <= clock).cloned() {
            self.ring(&key, clock, told);
        }
    }

    /// What was due for a key until `clock` happens.
    fn ring(&mut self, key: &Key, clock: Micros, told: &mut Vec<Transition<R>>) {
        while let Some(instance) = self.instances.get_mut(key)
            && let Some(due) = instance.timer.take_if(|due| *due <= clock)
        {
            self.timers.remove(&(due, Arc::clone(key)));
            match &instance.phase {
                Phase::Quiet => self.remove(key),
                // Whoever could not speak for a while gets more time.
                Phase::Pending { .. } => match self.due(key).filter(|later| *later > clock) {
                    Some(later) => self.set_timer_at(key, Some(later)),
                    None => self.fire(key, self.due(key).unwrap_or(due), told),
                },
                Phase::Firing(alert) => {
                    let (key, entity, alert) = (Arc::clone(key), Arc::clone(&instance.entity), alert.clone());
                    told.push(Transition { key: Arc::clone(&key), entity, became: Became::Repeated, at: due, alert });
                    // After a long silence it is told once.
                    let missed = |repeat: Micros| (clock - due) / repeat;
                    self.set_timer_at(&key, self.terms.repeat.map(|repeat| due + repeat * (1 + missed(repeat))));
                }
            }
        }
    }

    fn hear(
        &mut self,
        entity: &Key,
        at: Micros,
        cause: &Cause,
        said: &Said,
        row: impl FnOnce() -> R,
        told: &mut Vec<Transition<R>>,
    ) {
        let key = &said.key;
        if self.is_known(key, at) {
            return;
        }
        self.link(key, entity);
        // What was due before comes first, however many rows come at once.
        self.ring(key, at, told);
        if self.terms.absent_for.is_some() {
            if said.holds == Some(true) {
                self.end(key, at, told);
                self.begin(entity, key, at, cause.clone(), row());
            }
            return;
        }
        let is_over = self.terms.resolve_when && said.is_over == Some(true);
        let phase = self.instances.get_mut(key).map(|instance| &mut instance.phase);
        match (phase, said.holds) {
            (Some(Phase::Firing(_)), _) if is_over => self.end(key, at, told),
            (Some(Phase::Firing(_)), Some(false)) if !self.terms.resolve_when => self.end(key, at, told),
            (Some(Phase::Firing(_)), _) => {}
            (Some(Phase::Pending { .. }), Some(false)) => self.end(key, at, told),
            (Some(Phase::Pending { row: newest, .. }), Some(true)) => *newest = row(),
            (None | Some(Phase::Quiet), Some(true)) if !is_over => {
                let quiet_until = self.instances.get(key).map_or(Micros::MIN, |instance| instance.quiet_until);
                if self.terms.once && at < quiet_until {
                    return;
                }
                self.begin(entity, key, at, cause.clone(), row());
                if self.due(key).is_some_and(|due| due <= at) {
                    self.fire(key, at, told);
                }
            }
            (_, _) => {}
        }
    }

    /// The condition holds from now on.
    fn begin(&mut self, entity: &Key, key: &Key, since: Micros, cause: Cause, row: R) {
        self.instance(key, entity).phase = Phase::Pending { since, cause, row };
        self.set_timer(key);
    }

    /// What is known of a key; rows of `entity` speak of it.
    fn instance(&mut self, key: &Key, entity: &Key) -> &mut Instance<R> {
        self.link(key, entity);
        self.of_entity.entry(Arc::clone(entity)).or_default().insert(Arc::clone(key));
        self.instances.entry(Arc::clone(key)).or_insert_with(|| Instance {
            entity: Arc::clone(entity),
            phase: Phase::Quiet,
            quiet_until: Micros::MIN,
            known_at: Micros::MIN,
            timer: None,
        })
    }

    /// Rows of another entity speak of a key from now on, if one did before.
    fn link(&mut self, key: &Key, entity: &Key) {
        let Some(instance) = self.instances.get_mut(key).filter(|instance| instance.entity != *entity) else { return };
        let before = std::mem::replace(&mut instance.entity, Arc::clone(entity));
        self.leave(&before, key);
        self.of_entity.entry(Arc::clone(entity)).or_default().insert(Arc::clone(key));
    }

    /// Whether what rows of this time say of a key was told before a restart.
    fn is_known(&self, key: &Key, at: Micros) -> bool {
        self.instances.get(key).is_some_and(|instance| at < instance.known_at)
    }

    /// The condition does not hold any more.
    fn end(&mut self, key: &Key, at: Micros, told: &mut Vec<Transition<R>>) {
        let Some(instance) = self.instances.get_mut(key) else { return };
        if let Phase::Firing(alert) = std::mem::replace(&mut instance.phase, Phase::Quiet) {
            // A clock may be ahead of a row: nothing ends before it began.
            let at = at.max(alert.fired_at);
            instance.quiet_until = at.saturating_add(self.terms.cooldown);
            let entity = Arc::clone(&instance.entity);
            told.push(Transition { key: Arc::clone(key), entity, became: Became::Resolved, at, alert });
        }
        if instance.quiet_until.max(instance.known_at) > at {
            self.set_timer(key);
        } else {
            self.remove(key);
        }
    }

    fn fire(&mut self, key: &Key, at: Micros, told: &mut Vec<Transition<R>>) {
        let Some(instance) = self.instances.get_mut(key) else { return };
        let Phase::Pending { since, cause, row } = std::mem::replace(&mut instance.phase, Phase::Quiet) else { return };
        let id = id(&self.rule, key, since, &cause);
        let alert = Alert { id, starts_at: since, fired_at: at, cause, row };
        let entity = Arc::clone(&instance.entity);
        told.push(Transition { key: Arc::clone(key), entity, became: Became::Firing, at, alert: alert.clone() });
        if self.terms.once {
            instance.quiet_until = at.saturating_add(self.terms.cooldown);
        } else {
            instance.phase = Phase::Firing(alert);
        }
        if self.terms.once && self.terms.cooldown == 0 {
            self.remove(key);
        } else {
            self.set_timer(key);
        }
    }

    /// When an instance must be looked at next.
    fn due(&self, key: &Key) -> Option<Micros> {
        let instance = self.instances.get(key)?;
        match &instance.phase {
            Phase::Quiet => Some(instance.quiet_until.max(instance.known_at)),
            Phase::Pending { since, .. } => {
                let held = match self.terms.absent_for {
                    Some(absent_for) => self.silent_from.max(*since).saturating_add(absent_for),
                    None => since.saturating_add(self.terms.hold),
                };
                Some(held.max(instance.quiet_until))
            }
            Phase::Firing(alert) => self.terms.repeat.map(|repeat| alert.fired_at.saturating_add(repeat)),
        }
    }

    fn set_timer(&mut self, key: &Key) {
        let due = self.due(key);
        self.set_timer_at(key, due);
    }

    fn set_timer_at(&mut self, key: &Key, due: Option<Micros>) {
        let Some(instance) = self.instances.get_mut(key) else { return };
        if let Some(before) = std::mem::replace(&mut instance.timer, due) {
            self.timers.remove(&(before, Arc::clone(key)));
        }
        self.timers.extend(due.map(|due| (due, Arc::clone(key))));
    }

    fn remove(&mut self, key: &Key) {
        let Some(instance) = self.instances.remove(key) else { return };
        if let Some(timer) = instance.timer {
            self.timers.remove(&(timer, Arc::clone(key)));
        }
        self.leave(&instance.entity, key);
    }

    fn leave(&mut self, entity: &Key, key: &Key) {
        if let Some(keys) = self.of_entity.get_mut(entity) {
            keys.remove(key);
            if keys.is_empty() {
                self.of_entity.remove(entity);
            }
        }
    }
}

/// Of the same rule, key, beginning and cause always the same.
fn id(rule: &str, key: &str, starts_at: Micros, cause: &Cause) -> String {
    let mut hash = Sha256::new();
    let Cause { topic, partition, offset } = cause;
    hash.update(format!("{rule}\0{key}\0{starts_at}\0{topic}\0{partition}\0{offset}"));
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(name: &str) -> Key {
        name.into()
    }

    fn cause(offset: i64) -> Cause {
        Cause { topic: "t".into(), partition: 0, offset }
    }

    fn said(name: &str, holds: Option<bool>) -> Said {
        Said { key: key(name), holds, is_over: None }
    }

    #[test]
    fn what_was_not_found_again_did_not_last() {
        let mut life = Life::new("r", Terms { hold: 2, ..Terms::default() });
        let mut run = |at: Micros, found: &[&str]| {
            let mut told = Vec::new();
            life.only(at, |key| found.contains(&&**key), &mut told);
            for name in found {
                life.take(&key(name), at, &cause(at), &[said(name, Some(true))], |_| at, &mut told);
            }
            life.advance(at, &mut told);
            told.into_iter().map(|told| (told.key.to_string(), told.became, told.at)).collect::<Vec<_>>()
        };
        let of = |name: &str, became, at| (name.to_owned(), became, at);
        assert_eq!(run(0, &["a", "b"]), []);
        assert_eq!(run(2, &["b"]), [of("b", Became::Firing, 2)], "nobody knows how long a lasted");
        assert_eq!(run(4, &["a", "b"]), []);
        assert_eq!(run(7, &["a"]), [of("b", Became::Resolved, 7), of("a", Became::Firing, 6)]);
    }

    /// What a life tells, in short.
    fn short(told: Vec<Transition<i64>>) -> Vec<(Became, Micros, Micros)> {
        told.into_iter().map(|told| (told.became, told.at, told.alert.starts_at)).collect()
    }

    /// The same machine, tick by tick.
    fn model(
        terms: &Terms,
        rows: &[(Micros, Option<bool>, Option<bool>)],
        end: Micros,
    ) -> Vec<(Became, Micros, Micros)> {
        let (mut since, mut firing): (Option<Micros>, Option<Micros>) = (None, None);
        let (mut quiet_until, mut told) = (Micros::MIN, Vec::new());
        let wait = terms.absent_for.unwrap_or(terms.hold);
        for now in 0..=end {
            let row = rows.iter().find(|row| row.0 == now);
            for look in 0..2 {
                if let Some(start) = since.filter(|since| now >= (since + wait).max(quiet_until)) {
                    told.push((Became::Firing, now, start));
                    since = None;
                    if terms.once { quiet_until = now + terms.cooldown } else { firing = Some(start) }
                }
                let Some((_, holds, over)) = row.filter(|_| look == 0) else { continue };
                let over = terms.resolve_when && *over == Some(true);
                let ends = match terms.absent_for {
                    Some(_) => *holds == Some(true),
                    None if terms.resolve_when => over,
                    None => *holds == Some(false),
                };
                if let Some(start) = firing.filter(|_| ends) {
                    told.push((Became::Resolved, now, start));
                    (firing, quiet_until) = (None, now + terms.cooldown);
                    if terms.absent_for.is_none() {
                        continue;
                    }
                }
                let swallowed = terms.once && now < quiet_until;
                match holds {
                    Some(true) if terms.absent_for.is_some() => since = Some(now),
                    Some(true) if firing.is_none() && !over && !swallowed => since = since.or(Some(now)),
                    Some(false) if terms.absent_for.is_none() => since = None,
                    _ => {}
                }
            }
        }
        told
    }

    fn any_terms() -> impl Strategy<Value = Terms> {
        let micros = || prop_oneof![Just(0), 1..12_i64];
        (micros(), any::<bool>(), micros(), 0..4_u8, 1..12_i64).prop_map(
            |(hold, resolve_when, cooldown, kind, absent)| {
                let terms = Terms { cooldown, ..Terms::default() };
                match kind {
                    0 => Terms { once: true, ..terms },
                    1 => Terms { absent_for: Some(absent), ..terms },
                    _ => Terms { hold, resolve_when, ..terms },
                }
            },
        )
    }

    proptest! {
        #[test]
        fn a_life_is_what_the_model_says_however_rows_are_cut_into_batches(
            terms in any_terms(),
            rows in prop::collection::btree_map(0..60_i64, (any::<Option<bool>>(), any::<Option<bool>>()), 0..25),
            clocks in prop::collection::btree_set(0..60_i64, 0..20),
            restarts in prop::collection::btree_set(0..60_i64, 0..3),
        ) {
            let rows: Vec<_> = rows.into_iter().map(|(at, (holds, over))| (at, holds, over)).collect();
            let (mut life, mut told) = (Life::new("r", terms.clone()), Vec::new());
            for (at, holds, is_over) in &rows {
                // The clock never passes rows that are still to come.
                for clock in clocks.iter().filter(|clock| *clock < at) {
                    life.advance(*clock, &mut told);
                }
                if restarts.contains(at) {
                    let known: Vec<_> = life.instances().map(|(key, known)| (Arc::clone(key), known.clone())).collect();
                    life = Life::new("r", terms.clone());
                    life.restore(known);
                }
                let said = Said { key: key("k"), holds: *holds, is_over: *is_over };
                life.take(&key("e"), *at, &cause(*at), &[said], |_| *at, &mut told);
            }
            life.advance(80, &mut told);
            prop_assert_eq!(short(told), model(&terms, &rows, 80));
            if terms.cooldown == 0 && !terms.once && terms.absent_for.is_none() {
                let quiet = life.instances().filter(|(_, known)| known.phase == Phase::Quiet).count();
                prop_assert_eq!(quiet, 0, "a quiet key takes no memory");
            }
        }
    }

    #[test]
    fn another_row_looked_up_resolves_the_old_instance() {
        let (mut life, mut told) = (Life::new("lights", Terms::default()), Vec::new());
        let (car, other) = (key("car"), key("other"));
        life.take(&car, 1, &cause(1), &[said("car,r1", Some(true))], |_| 1, &mut told);
        life.take(&other, 1, &cause(2), &[said("other,r7", Some(true))], |_| 2, &mut told);
        assert_eq!(told.len(), 2);
        let first = told[0].alert.id.clone();
        // Unknown keeps it, another car's rows have nothing to do with it.
        life.take(&car, 2, &cause(3), &[said("car,r1", None)], |_| 3, &mut told);
        life.take(&other, 2, &cause(4), &[said("other,r7", Some(true))], |_| 4, &mut told);
        assert_eq!(told.len(), 2);
        life.take(&car, 3, &cause(5), &[said("car,r2", Some(true))], |_| 5, &mut told);
        let then: Vec<_> = told[2..].iter().map(|told| (&*told.key, told.became, told.alert.row)).collect();
        assert_eq!(then, [("car,r2", Became::Firing, 5), ("car,r1", Became::Resolved, 1)]);
        assert_eq!(told[3].alert.id, first);
        assert_ne!(told[2].alert.id, first);
        // Nothing is named any more.
        life.take(&car, 4, &cause(6), &[], |_| 6, &mut told);
        assert_eq!((told[4].became, told.len(), life.firing()), (Became::Resolved, 5, 1));
    }

    #[test]
    fn what_fires_is_told_again_now_and_then() {
        let terms = Terms { repeat: Some(10), ..Terms::default() };
        let (mut life, mut told) = (Life::new("r", terms), Vec::new());
        life.take(&key("e"), 5, &cause(1), &[said("k", Some(true))], |_| 0, &mut told);
        life.advance(14, &mut told);
        assert_eq!(told.len(), 1);
        life.advance(15, &mut told);
        // Asleep for a while: once, and then in the same rhythm.
        life.advance(48, &mut told);
        assert_eq!(life.next_timer(), Some(55));
        life.take(&key("e"), 50, &cause(2), &[said("k", Some(false))], |_| 0, &mut told);
        life.advance(90, &mut told);
        let fired = (Became::Firing, 5, 5);
        let repeated = [(Became::Repeated, 15, 5), (Became::Repeated, 25, 5)];
        assert_eq!(short(told), [fired, repeated[0], repeated[1], (Became::Resolved, 50, 5)]);
    }

    #[test]
    fn what_was_told_before_a_restart_is_not_told_again_by_rows_that_come_again() {
        let terms = Terms { cooldown: 5, ..Terms::default() };
        let rows = [(1, true), (2, false), (9, true), (10, true), (11, false), (20, true)];
        let take = |life: &mut Life<i64>, (at, holds): (i64, bool), told: &mut Vec<_>| {
            life.advance(at, told);
            life.take(&key("e"), at, &cause(at), &[said("k", Some(holds))], |_| at, told);
        };
        let mut told = Vec::new();
        let mut life = Life::new("r", terms.clone());
        rows.iter().for_each(|row| take(&mut life, *row, &mut told));
        let all = told.clone();
        assert_eq!(all.len(), 5);
        // Whatever was told, all rows come again, or just the newest.
        for count in 0..=all.len() {
            for (comes_again, from) in [(true, 0), (false, rows.len() - 1)] {
                let (mut life, mut told) = (Life::new("r", terms.clone()), Vec::new());
                all[..count].iter().for_each(|told| life.adopt(told, comes_again));
                rows[from..].iter().for_each(|row| take(&mut life, *row, &mut told));
                let ids = |told: &[Transition<i64>]| -> Vec<(String, Became)> {
                    told.iter().map(|told| (told.alert.id.clone(), told.became)).collect()
                };
                if comes_again {
                    assert_eq!(ids(&told), ids(&all[count..]), "{count} were told");
                } else {
                    let firing = all[..count].last().is_some_and(|told| told.became == Became::Firing);
                    assert_eq!((told.len(), life.firing()), (usize::from(!firing), 1), "{count} were told");
                }
            }
        }
    }

    #[test]
    fn who_was_expected_and_never_spoke_is_absent() {
        let terms = Terms { absent_for: Some(10), ..Terms::default() };
        let (mut life, mut told) = (Life::new("silent", terms), Vec::new());
        life.expect(&key("a"), 0, cause(-1), 0);
        life.expect(&key("b"), 0, cause(-1), 0);
        life.take(&key("a"), 7, &cause(1), &[said("a", Some(true))], |_| 1, &mut told);
        life.expect(&key("a"), 8, cause(-1), 0);
        life.advance(16, &mut told);
        assert_eq!(told.iter().map(|told| &*told.key).collect::<Vec<_>>(), ["b"]);
        life.forget(16, |key| &**key == "a", &mut told);
        assert_eq!(told.len(), 2, "it is not expected any more");
        life.advance(17, &mut told);
        assert_eq!(told[2..].iter().map(|told| (&*told.key, told.became)).collect::<Vec<_>>(), [("a", Became::Firing)]);
    }

    #[test]
    fn who_cannot_speak_is_not_silent() {
        let terms = Terms { absent_for: Some(10), ..Terms::default() };
        let (mut life, mut told) = (Life::new("silent", terms), Vec::new());
        let speak = |life: &mut Life<i64>, name: &str, at: i64, told: &mut Vec<_>| {
            life.take(&key(name), at, &cause(at), &[said(name, Some(true))], |_| at, told);
        };
        speak(&mut life, "a", 0, &mut told);
        speak(&mut life, "b", 1, &mut told);
        // Nobody can from 5 to 30.
        (20..=30).for_each(|at| life.silence_from(at));
        life.advance(25, &mut told);
        speak(&mut life, "a", 31, &mut told);
        life.advance(39, &mut told);
        assert_eq!(told.len(), 0);
        life.advance(40, &mut told);
        assert_eq!(short(told.clone()), [(Became::Firing, 40, 1)], "b has said nothing since");
        life.advance(41, &mut told);
        assert_eq!(short(told), [(Became::Firing, 40, 1), (Became::Firing, 41, 31)]);
    }

    #[test]
    fn an_id_depends_on_all_that_made_it() {
        let ids: BTreeSet<String> = [
            id("r", "k", 1, &cause(1)),
            id("q", "k", 1, &cause(1)),
            id("r", "l", 1, &cause(1)),
            id("r", "k", 2, &cause(1)),
            id("r", "k", 1, &cause(2)),
        ]
        .into();
        assert_eq!(ids.len(), 5);
        assert_eq!(id("r", "k", 1, &cause(1)), "37e6bc6ec07ef8de418516cf0870bde6");
    }
}
