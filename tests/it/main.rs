//! The real binary, stage by stage: what senders, upstreams and operators may rely on.
//!
//! Every test starts its own relay in a directory of its own and waits for conditions, never for time to pass.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "the helpers of tests panic too, and say what they could not do"
)]

mod harness;

mod admin;
mod alerts;
mod answers;
mod api;
mod api_schema;
mod bad_input;
mod batches;
mod cache;
mod chains;
mod cloudevents;
mod config;
mod delivery;
mod disk;
mod expressions;
mod front_door;
mod jobs;
mod log;
mod monitoring;
mod notices;
mod operator;
mod order;
mod pace;
mod page;
mod page_actions;
mod permission;
mod plan;
mod quarantine;
mod restart;
mod routing;
mod sdk;
mod shadows;
mod signing;
mod sinks;
mod sources_answers;
mod sources_challenges;
mod sources_door;
mod sources_outside;
mod sources_path;
mod sources_series;
mod sources_tools;
mod subscribers;
mod systemd;
mod targets;
mod tenants;
mod tls;
mod tools;
mod traces;
mod transfer;
mod verification;
mod waiting;
mod waiting_streams;
mod websocket;
mod zero_config;
