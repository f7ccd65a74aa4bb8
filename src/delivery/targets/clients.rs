//! Owns the connections of one worker: one to an upstream's only target, or one to each of several.
//!
//! Promises that with one target nothing is added to what that connection costs.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
};

use super::Chosen;
use crate::delivery::client::Client;

/// A worker's connections.
#[derive(Default)]
pub(crate) struct Clients {
    only: Client,
    /// By the place of the target in the configuration; a client whose target moved connects anew.
    several: Vec<Client>,
}

impl Clients {
    /// The connection to the chosen target, or to the only one.
    pub(crate) fn to(&mut self, chosen: Option<&Chosen>) -> &mut Client {
        let Some(chosen) = chosen else {
            self.several.clear();
            return &mut self.only;
        };
        if self.several.len() <= chosen.index {
            self.several.resize_with(chosen.index + 1, Client::default);
        }
        // Just made as long as that; the other is never used while there are several.
        self.several.get_mut(chosen.index).unwrap_or(&mut self.only)
    }

    /// Waits for `work` and keeps idle connections driven, so that their end is noticed when it comes.
    pub(crate) async fn rest<T>(&mut self, work: impl Future<Output = T>) -> T {
        if self.several.is_empty() {
            return self.only.rest(work).await;
        }
        let mut work = pin!(work);
        poll_fn(|cx| {
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(done);
            }
            self.several.iter_mut().for_each(|client| client.poll_idle(cx));
            Poll::Pending
        })
        .await
    }
}
