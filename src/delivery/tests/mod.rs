//! Owns the tests of the engine against scripted upstreams on real sockets.

mod batches;
mod exchange;
mod gates;
mod protocols;
pub(crate) mod rig;
mod settlements;
mod sign;
