//! What must be true of orders by key, in the words of the model: slow and simple, and with nothing from the agenda.

use std::collections::BTreeMap;

use stagepost::{
    event::{Change, Job, Seq},
    log::entry::Attempted,
    routing::{OnFailure, OrderPolicy, Table},
};

use crate::checker::{Checker, Is, Key};

/// The model of orders.
#[derive(Default)]
pub struct Orders {
    /// Where events came from.
    pub sources: BTreeMap<Seq, String>,
    /// The newest delivered version by upstream, selector and key.
    newest: BTreeMap<(String, String, String), u64>,
    /// Selector and key of what was handed out, by the table of then.
    sent: BTreeMap<Key, (String, String)>,
}

fn policy<'a>(table: &'a Table, source: &str, upstream: &str) -> Option<&'a OrderPolicy> {
    table.routes.iter().find(|route| route.takes(source) && route.leads_to(upstream))?.order.as_deref()
}

fn field(body: &[u8], path: &str) -> Option<String> {
    let body: serde_json::Value = serde_json::from_slice(body).ok()?;
    let value = body.get(path.trim_start_matches('.'))?;
    value.as_u64().map(|number| number.to_string())
}

impl Checker {
    /// The selector and the key of a delivery, and its policy.
    fn line<'a>(&self, event: Seq, upstream: &str, table: &'a Table) -> Option<((String, String), &'a OrderPolicy)> {
        let policy = policy(table, self.orders.sources.get(&event)?, upstream)?;
        let key = field(self.durable.get(&event)?, policy.key.text())?;
        Some(((policy.key.text().to_owned(), key), policy))
    }

    /// A job of an ordered delivery is handed out now.
    pub fn in_turn(&mut self, job: &Job, table: &Table) -> Result<(), String> {
        let (seq, upstream) = (job.event.id.pos.seq, job.upstream.to_string());
        let Some((line, policy)) = self.line(seq, &upstream, table) else { return Ok(()) };
        let key: Key = (seq, upstream.clone());
        self.orders.sent.insert(key.clone(), line.clone());
        let same = |event: Seq| self.line(event, &upstream, table).filter(|(other, _)| *other == line);
        let out = self.in_flight.iter().find(|other| other.1 == upstream && **other != key && same(other.0).is_some());
        if let Some((other, _)) = out {
            return Err(format!("{key:?}: event {other} of the same key {line:?} is under way"));
        }
        for ((event, name), known) in self.deliveries.range(..(seq, String::new())) {
            // When a replay joins is not promised.
            if *name != upstream || known.replays > 0 {
                continue;
            }
            let Some((_, policy)) = same(*event) else { continue };
            let parks = policy.on_failure == OnFailure::Park && known.is == Is::Dead && !known.let_go;
            if parks || matches!(known.is, Is::Pending | Is::Held) {
                return Err(format!("{key:?}: event {event} of the same key {line:?} is {:?}", known.is));
            }
        }
        let unplanned = self.durable.keys().take_while(|event| **event < seq).find(|event| {
            let surely = self.orders.sources.get(event).is_some_and(|source| source != "slow");
            // What was sent before its plan was in the log is known, and was looked at above.
            let known = self.deliveries.contains_key(&(**event, upstream.clone()));
            surely
                && !known
                && !self.planned.contains(event)
                && !self.deleted.contains(event)
                && same(**event).is_some()
        });
        if let Some(event) = unplanned {
            return Err(format!("{key:?}: event {event} of the same key {line:?} is not planned"));
        }
        if policy.version.is_some() {
            let version = field(&self.durable[&seq], ".v").and_then(|version| version.parse::<u64>().ok());
            let newest = self.orders.newest.get(&(upstream, line.0, line.1));
            if version.zip(newest).is_some_and(|(version, newest)| version < *newest) {
                return Err(format!("{key:?}: version {version:?} is sent after {newest:?}"));
            }
        }
        Ok(())
    }

    /// What became of an ordered delivery. Its version counts for the key that it was sent under.
    pub fn settled_in_order(&mut self, attempted: &Attempted) -> Result<(), String> {
        let (event, upstream) = (attempted.event, attempted.upstream.to_string());
        if let Change::Supersede(reason) = &attempted.change {
            let newer = self.deliveries.range((event + 1, String::new())..).any(|((_, name), _)| *name == upstream);
            // It may have been deleted since.
            if reason.code == "coalesced" && !newer && self.deleted.is_empty() {
                return Err(format!("event {event} made way for a newer one, and there is none"));
            }
            self.superseded.insert((event, upstream));
            return Ok(());
        }
        let version = attempted.turn.as_ref().and_then(|turn| turn.version.as_ref());
        if let (Some(version), Change::Delivered) = (version, &attempted.change)
            && let Some(line) = self.orders.sent.get(&(event, upstream.clone())).cloned()
        {
            let version = version.as_str().parse().unwrap_or(0);
            let newest = self.orders.newest.entry((upstream, line.0, line.1)).or_default();
            *newest = version.max(*newest);
        }
        Ok(())
    }
}
