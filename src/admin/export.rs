//! Owns the export: every event that is meant, with headers, body, deliveries and attempts, oldest first.
//!
//! Promises flat memory whatever the log holds: one event at a time, beside the walk's own bound. Attempts that stand far
//! from their event and left no record are left out, as `attempts_total` shows. Deliberately absent: who answered a
//! sender that waited, which would cost a search for each.

use std::ops::ControlFlow;

use super::{
    filter::Compiled,
    find::{History, history},
    forward::{Forward, Met},
    line::{body_sha256, head},
    ports::{DeliveryView, QueryError, Reads},
    privacy::{BodyError, Hidden, body},
    show::{self, shown_from},
    wire::{EXPORT_FORMAT, ExportReply, Exported, ExportedProxy, Text},
};
use crate::{
    event::Seq,
    log::{Log, ReadError},
};

/// Gives every event that is meant and stored now, oldest first, until it is told to stop.
///
/// # Errors
/// What can't be stepped over.
pub fn export(
    reads: &dyn Reads,
    wanted: &Compiled,
    hide_credentials: bool,
    emit: &mut dyn FnMut(ExportReply) -> ControlFlow<()>,
) -> Result<(), QueryError> {
    let log = reads.log();
    let hidden = Hidden::new(reads, !hide_credentials);
    let mut walk = Forward::new(reads, wanted, 0, log.end(), true);
    while let Some(batch) = walk.batch()? {
        for note in batch.notes {
            if emit(ExportReply::Note(note)).is_break() {
                return Ok(());
            }
        }
        for met in batch.met {
            let reply = match exported(reads, &*log, &met, &hidden) {
                Ok(event) => ExportReply::Event(event),
                Err(error) => ExportReply::Note(format!("{}: {error}", met.found.event.id)),
            };
            if emit(reply).is_break() {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn exported(
    reads: &dyn Reads,
    log: &dyn Log,
    Met { found, firsts }: &Met,
    hidden: &Hidden<'_>,
) -> Result<Exported, BodyError> {
    let event = &found.event;
    let sha256 = hex::encode(body_sha256(log, event)?);
    let seq: Seq = event.id.pos.seq;
    let attempts = |delivery: &DeliveryView| match delivery.last {
        Some(_) => history(log, seq, found.stored_at, delivery),
        None => {
            let first = firsts.iter().find(|first| first.upstream == delivery.upstream).cloned();
            Ok(History { attempts: first.into_iter().collect(), damaged: None, delivered_at: None })
        }
    };
    let shown = |delivery| Ok(shown_from(log, event, delivery, attempts(delivery)?, &sha256, hidden));
    let deliveries = found.view.deliveries.iter().map(shown).collect::<Result<_, ReadError>>()?;
    let body = body(reads, event, hidden.reveals())?;
    let text = |(name, value): &(Box<str>, Box<str>)| (name.to_string(), value.to_string());
    Ok(Exported {
        format: EXPORT_FORMAT,
        show: show::account(reads, found, head(found, sha256.clone(), deliveries), hidden, None),
        captures: event.captures.iter().map(text).collect(),
        proxy: event.proxy.as_ref().map(|proxy| ExportedProxy {
            address: proxy.address.to_string(),
            scheme: proxy.scheme.as_str().to_owned(),
        }),
        hops: event.extras.as_ref().and_then(|extras| extras.hops),
        body: Text::new(&body),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::{fake::*, wire::Filters};

    fn lines(fake: &Fake, hide: bool) -> Vec<serde_json::Value> {
        let wanted = Compiled::new(Filters::default(), fake).unwrap();
        let mut lines = Vec::new();
        export(fake, &wanted, hide, &mut |reply| {
            let ExportReply::Event(event) = reply else { panic!("{reply:?}") };
            lines.push(serde_json::to_value(&event).unwrap());
            ControlFlow::Continue(())
        })
        .unwrap();
        lines
    }

    #[test]
    fn an_exported_event_has_all_that_is_known_of_it() {
        let fake = Fake::default();
        let (one, two) = (fake.accept("stripe", br#"{"id":1}"#), fake.accept("stripe", b"\xff"));
        fake.plan(&[(one, &["billing"]), (two, &["billing"])]);
        fake.attempt(one, "billing", 1, Some(200), None);
        let last = fake.attempt(two, "billing", 1, Some(503), None);
        let dead = Status::Dead(Reason::new("given_up"));
        fake.set(two, DeliveryView { last: Some(last), ..delivery("billing", dead) });
        let lines = lines(&fake, false);
        assert_eq!(lines.len(), 2);
        assert_eq!((&lines[0]["id"], &lines[0]["body"]), (&one.to_string().into(), &r#"{"id":1}"#.into()));
        assert_eq!(lines[0]["deliveries"][0]["attempts"][0]["status"], 200);
        assert_eq!(lines[0]["captures"][0][1], "acme");
        assert!(lines[0]["headers"].to_string().contains("sesame"));
        assert_eq!((&lines[1]["state"], &lines[1]["body"]["base64"]), (&"dead".into(), &"/w==".into()));
        assert_eq!(lines[1]["deliveries"][0]["attempts"][0]["status"], 503);
    }

    #[test]
    fn credentials_can_be_left_out() {
        let fake = Fake::default();
        fake.accept("stripe", b"{}");
        let line = &lines(&fake, true)[0];
        assert!(!line.to_string().contains("sesame"));
        assert_eq!(line["hidden"][0], "authorization");
    }
}
