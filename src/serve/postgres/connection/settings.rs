//! Options of a connection: the door's own and the session's, and what the client is told of them.

use tokio::io::{AsyncRead, AsyncWrite};

use super::super::answers::{Standing, Trouble};
use super::super::trouble;
use super::{Change, Connection, OF_SESSION};

impl<R: AsyncRead + Unpin + Send, W: AsyncWrite + Unpin + Send> Connection<R, W> {
    pub(super) fn zone(&self) -> String {
        let shown = self.session.show(Some("timezone")).ok();
        shown.and_then(|mut shown| shown.pop()).map_or_else(|| "UTC".to_owned(), |(_, value)| value)
    }

    /// An option's name as it is written, and its value.
    pub(super) fn show(&self, name: &str) -> Option<(String, String)> {
        if let Some((name, value)) = self.options.show(name) {
            return Some((name.to_owned(), value.to_owned()));
        }
        let (name, value) = self.session.show(Some(name)).ok()?.pop()?;
        Some((if name == "timezone" { "TimeZone" } else { name }.to_owned(), value))
    }

    pub(super) fn show_all(&self) -> Vec<Vec<String>> {
        let own = self.options.all().map(|(name, value)| vec![name.to_owned(), value.to_owned()]);
        let session = self.session.show(None).unwrap_or_default();
        let mut all: Vec<Vec<String>> =
            own.chain(session.into_iter().map(|(name, value)| vec![name.to_owned(), value])).collect();
        all.sort_by_key(|row| row.first().map(|name| name.to_lowercase()));
        all
    }

    pub(super) fn set(&mut self, name: &str, value: Option<&str>, is_local: bool) -> Result<(), Trouble> {
        let before = self.show(name).map(|(_, value)| value);
        if is_local && self.standing == Standing::Idle {
            self.answers.notice(&Trouble::new("25P01", "SET LOCAL can only be used in transaction blocks"));
            return Ok(());
        }
        self.change(name, value)?;
        if self.standing == Standing::InTransaction {
            self.changes.push(Change { name: name.to_owned(), before, is_local });
        }
        Ok(())
    }

    /// Changes an option, and tells the client if it wants to know.
    pub(super) fn change(&mut self, name: &str, value: Option<&str>) -> Result<(), Trouble> {
        // Back is what the client asked for on connecting.
        let wished =
            || self.wished.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone());
        let back = if value.is_none() { wished() } else { None };
        let value = value.or(back.as_deref());
        let told = if OF_SESSION.iter().any(|own| own.eq_ignore_ascii_case(name)) {
            let changed = match value {
                Some(value) => self.session.set(name, value),
                None => self.session.reset(name),
            };
            changed.map_err(|error| Trouble { code: "22023", ..trouble::of(&error, "", 0) })?;
            name.eq_ignore_ascii_case("timezone").then(|| ("TimeZone", self.zone()))
        } else {
            self.options.set(name, value)?
        };
        if let Some((name, value)) = told {
            self.answers.parameter(name, &value);
        }
        self.tell_session();
        Ok(())
    }

    /// The session answers what is asked for in SQL.
    pub(super) fn tell_session(&self) {
        let all = self.show_all().into_iter();
        self.session.tell_settings(all.filter_map(|row| <[String; 2]>::try_from(row).ok()).map(Into::into).collect());
    }

    pub(super) fn reset(&mut self) -> Result<(), Trouble> {
        for (name, value) in self.options.reset() {
            self.answers.parameter(name, &value);
        }
        OF_SESSION.iter().try_for_each(|name| self.change(name, None))?;
        for (name, value) in self.wished.clone() {
            self.change(&name, Some(&value))?;
        }
        Ok(())
    }
}
