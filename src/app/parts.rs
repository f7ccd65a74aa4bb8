//! Owns what is configured and stored in the words of the admin side: sources, routes, segments.

use std::collections::BTreeMap;

use crate::{
    admin::wire,
    clock::Timestamp,
    log::sled::SegmentInfo,
    routing::Table,
    telemetry::{Metrics, RequestResult},
};

/// The sources, with what came in since the start.
pub(super) fn sources(table: &Table, metrics: &Metrics) -> Vec<wire::Source> {
    let one = |source: &std::sync::Arc<crate::routing::Source>| {
        let counted = metrics.source(&source.name);
        let results = RequestResult::ALL.iter().zip(&counted.requests);
        let results = results.map(|(result, count)| (result.as_str().to_owned(), count.get()));
        let requests: BTreeMap<String, u64> = results.filter(|(_, count)| *count > 0).collect();
        let methods = source.methods.as_ref();
        wire::Source {
            name: source.name.to_string(),
            host: source.host.as_deref().map(str::to_owned),
            path: source.pattern.text.to_string(),
            methods: methods.map(|all| all.iter().map(|method| method.as_str().to_owned()).collect()),
            scheme: source.verifier.scheme().to_owned(),
            mode: if source.wait.is_some() { "proxy" } else { "store" }.to_owned(),
            deduplicates: source.dedupe.is_some(),
            quarantine: source.quarantine,
            max_body: source.max_body,
            requests,
            duplicates: counted.duplicates.get(),
        }
    };
    table.sources.iter().map(one).collect()
}

/// The routes.
pub(super) fn routes(table: &Table) -> Vec<wire::Route> {
    let names = |names: &[Box<str>]| names.iter().map(ToString::to_string).collect();
    let one = |route: &crate::routing::Route| wire::Route {
        name: route.name.to_string(),
        sources: route.sources.as_deref().map(names),
        when: route.when.as_ref().map(|when| when.text().to_owned()),
        topic: route.topic.as_deref().map(str::to_owned),
        to: names(&route.to),
        transform: route.transform.as_ref().map(|transform| transform.text().to_owned()),
        is_ordered: route.order.is_some(),
    };
    table.routes.iter().map(one).collect()
}

/// A segment.
pub(super) fn segment(info: SegmentInfo) -> wire::Segment {
    wire::Segment {
        number: info.number,
        first: info.first_seq,
        end: info.end,
        first_at: Some(info.first_time).filter(|time| *time > Timestamp::ZERO),
        last_at: info.sealed.then_some(info.last_time),
        bytes: info.bytes,
        sealed: info.sealed,
    }
}
