//! Owns the tests of the engine against scripted upstreams on real sockets.

mod adaptive;
mod batches;
mod exchange;
mod gates;
mod guarded;
mod handshake;
mod names;
mod paced;
mod protocols;
pub(crate) mod rig;
mod settlements;
mod sign;
