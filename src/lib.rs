//! Stagepost: a store-and-forward reverse proxy whose 2xx means that the request is on disk.
//!
//! The folders are the stages of an event's life; see `ARCHITECTURE.md`. The library exists for the binary, the
//! tests and the benches; it promises no stable interface to others.

pub mod admin;
pub mod agenda;
pub mod alert;
pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod delivery;
pub mod drill;
pub mod event;
pub mod expr;
pub mod ingress;
pub mod jitter;
pub mod keys;
pub mod listen;
pub mod log;
pub mod preset;
pub mod quarantine;
pub mod routing;
pub mod schema;
pub mod state;
pub mod telemetry;
pub mod tenant;
pub mod verify;
