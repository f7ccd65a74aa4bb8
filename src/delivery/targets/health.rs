//! Owns health checks: each target is asked by a task of its own, over a connection of its own.
//!
//! Promises that a check ends by its time-out, that checks of one target never overlap, and that they end with the
//! configuration that asked for them. What their answers change is the pool's business.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, Uri, header};
use http_body_util::Full;
use tokio::time::{sleep, timeout};

use super::{Balancer, Standing, lock};
use crate::{
    clock::Clock,
    delivery::{
        client::{Client, MakeRequest, Shared},
        names::Names,
        request::own_host,
    },
    jitter::Jitter,
    routing::{HealthCheck, Member, Targets, Upstream},
};

/// What is said of whoever asks.
const AGENT: HeaderValue = HeaderValue::from_static("stagepost-health");

impl Balancer {
    /// Asks the targets about their health from now on, if the configuration wants that and nobody does.
    pub(crate) fn watch(self: &Arc<Self>, clock: &Clock, jitter: &Jitter) {
        let Some(targets) = lock(&self.pool).take_unwatched() else { return };
        for index in 0..targets.members.len() {
            tokio::spawn(watch(self.clone(), targets.clone(), index, (clock.clone(), jitter.clone())));
        }
    }
}

async fn watch(balancer: Arc<Balancer>, targets: Arc<Targets>, index: usize, (clock, jitter): (Clock, Jitter)) {
    let (Some(member), Some(policy)) = (targets.members.get(index), &targets.health) else { return };
    let probe = Probe::new(member, policy);
    loop {
        let ended = balancer.changed.notified();
        if !lock(&balancer.pool).is_adopted(&targets) {
            return;
        }
        let is_good = probe.ask(policy, &balancer.names).await;
        let standing = lock(&balancer.pool).checked(&member.url, is_good, policy, clock.steady());
        let (upstream, target) = (&*member.upstream.name, &*member.url);
        match standing {
            Some(Standing::Unhealthy) => tracing::warn!(upstream, target, "a target is not healthy and is left out"),
            Some(Standing::Healthy) => tracing::info!(upstream, target, "a target is healthy again"),
            Some(Standing::Ejected(_)) | None => {}
        }
        // Up to a tenth is added, so that many targets are not asked at the same moment for ever.
        let spread = Duration::from_millis(jitter.next_u64() % (policy.every.as_millis() as u64 / 10).max(1));
        let pause = sleep(policy.every.saturating_add(spread));
        tokio::select! {
            // Both are cancel-safe: the loop looks at the pool again.
            () = ended => {}
            () = pause => {}
        }
    }
}

/// The question to one target.
struct Probe {
    upstream: Arc<Upstream>,
    path: Box<str>,
    host: HeaderValue,
}

impl Probe {
    fn new(member: &Member, policy: &HealthCheck) -> Self {
        let mut upstream = Upstream::clone(&member.upstream);
        (upstream.timeout, upstream.idle_timeout) = (policy.timeout, policy.timeout);
        upstream.connect_timeout = upstream.connect_timeout.min(policy.timeout);
        let host = own_host(&upstream);
        Self { upstream: Arc::new(upstream), path: policy.path.clone(), host }
    }

    async fn ask(&self, policy: &HealthCheck, names: &Arc<Names>) -> bool {
        let (mut client, shared) = (Client::default(), Shared::new(names.clone()));
        let exchange = client.exchange(self, &self.upstream, &shared, 0);
        matches!(timeout(policy.timeout, exchange).await, Ok(Ok(answer)) if policy.accepts(answer.status))
    }
}

impl MakeRequest for Probe {
    fn make(&self, http2: bool) -> Result<Request<Full<Bytes>>, http::Error> {
        let mut request = Request::new(Full::default());
        let headers = request.headers_mut();
        headers.extend(self.upstream.headers.iter().cloned());
        headers.insert(header::USER_AGENT, AGENT);
        *request.uri_mut() = if http2 {
            Uri::builder().scheme("https").authority(self.host.as_bytes()).path_and_query(&*self.path).build()?
        } else {
            headers.insert(header::HOST, self.host.clone());
            Uri::try_from(&*self.path)?
        };
        Ok(request)
    }
}
